"""Serializer fields that the fine-tuning APIs share: JSON that the database takes, whoever made it up."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

MOST_VALUES, MOST_DEPTH, MOST_TEXT = 2000, 16, 16_384


def check_json(value: Any) -> None:
    """Raise ValidationError for JSON that is too much to keep, or holds the character NUL, which cannot be kept."""
    stack, count = [(value, 1)], 0
    while stack:
        each, depth = stack.pop()
        count += 1
        if count > MOST_VALUES or depth > MOST_DEPTH:
            raise serializers.ValidationError(
                f"At most {MOST_VALUES} values, nested at most {MOST_DEPTH} deep, are taken."
            )
        if isinstance(each, dict):
            stack += [(name, depth + 1) for name in each] + [(other, depth + 1) for other in each.values()]
        elif isinstance(each, list):
            stack += [(other, depth + 1) for other in each]
        elif isinstance(each, str):
            _check_text(each)


def _check_text(text: str) -> None:
    if "\0" in text:
        raise serializers.ValidationError("The character NUL cannot be kept.")
    if len(text) > MOST_TEXT:
        raise serializers.ValidationError(f"Texts may have at most {MOST_TEXT} characters.")


class ObjectField(serializers.JSONField):
    """A JSON object, kept as it is."""

    class Meta:
        swagger_schema_fields = {"type": "object", "additionalProperties": True}

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise serializers.ValidationError("Expected an object.")
        check_json(data)
        return data


class LabelsField(ObjectField):
    """OpenAI's metadata: up to 16 texts by name."""

    class Meta:
        swagger_schema_fields = {
            "type": "object",
            "additionalProperties": {"type": "string", "maxLength": 512},
            "description": "Up to 16 texts by name: names of at most 64 characters, texts of at most 512.",
        }

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        found = super().to_internal_value(data)
        if len(found) > 16:
            raise serializers.ValidationError("At most 16 names are taken.")
        for name, text in found.items():
            if len(name) > 64 or not isinstance(text, str) or len(text) > 512:
                raise serializers.ValidationError(
                    "Names are texts of at most 64 characters, and what they stand for texts of at most 512."
                )
        return found


class StrictBooleanField(serializers.BooleanField):
    """true or false, and no words for them."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            raise serializers.ValidationError("Expected true or false.")
        return data
