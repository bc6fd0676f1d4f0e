"""Serializer fields that several endpoints share."""

from typing import Any

from rest_framework import serializers

# Longer ones cost time to hash, and nobody types them.
MAX_PASSWORD = 128


class PasswordField(serializers.CharField):
    """A password: kept to the letter, never answered."""

    def __init__(self, **options: Any) -> None:
        options = {"write_only": True, "trim_whitespace": False, "max_length": MAX_PASSWORD} | options
        super().__init__(style={"input_type": "password"}, **options)
