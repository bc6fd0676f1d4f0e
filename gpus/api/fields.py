"""Fields that more than one endpoint takes."""

from typing import Any

from drf_yasg import openapi
from rest_framework import serializers

from clients.models import Client
from gpus import offers
from gpus.models import Gpu
from gpus.offers import Named
from marketplace.errors import Forbidden

HARDWARE = (
    "gpu_info", "cpu_name", "cpu_core", "cpu_frequency", "total_memory", "total_swap", "ram",
    "os_name", "os_version",
)  # fmt: skip


class NotYourAccount(Forbidden):
    code, message = "not_your_account", "You can do this for your own account only."


class UserField(serializers.IntegerField):
    """An account's number; clients that keep it in a browser's storage send it as a text of digits."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(min_value=1, max_value=2**63 - 1, **kwargs)

    def run_validation(self, data: Any = serializers.empty) -> Any:
        value = super().run_validation(data)
        if isinstance(value, int):
            _check_account(value, self.context["request"].user)
        return value


def _check_account(account: int, caller: Client) -> None:
    if account == caller.pk:
        return
    if not caller.is_staff:
        raise NotYourAccount
    if not Client.objects.filter(pk=account).exists():
        raise serializers.ValidationError(f"There is no account {account}.")


class HardwareSerializer(serializers.ModelSerializer[Any]):
    """The hardware fields of the API document: texts, none of them empty; numbers are taken as texts."""

    class Meta:
        model: Any = Gpu
        fields: Any = HARDWARE


_PRICES = (
    ("input_price", "Tokens per million prompt tokens; what is left out stays as it is."),
    ("output_price", "Per million completion tokens."),
    ("request_price", "Per request."),
)


class ModelsField(serializers.Field[list[Named], Any, Any, Any]):
    """What a node serves: names, or objects with `name` and what else is known of the model."""

    class Meta:
        swagger_schema_fields = {
            "type": openapi.TYPE_ARRAY,
            "items": {
                "type": openapi.TYPE_OBJECT,
                "description": "Or the bare name as a string.",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
                    "kinds": {"type": "array", "items": {"type": "string", "enum": list(offers.KINDS)}},
                    "context_length": {"type": "integer", "minimum": 1, "maximum": 2147483647},
                    "concurrency": {"type": "integer", "minimum": 1, "maximum": 2147483647},
                    "revision": {"type": "string", "maxLength": 100, "pattern": "^[ -~]*$"},
                    "description": {"type": "string", "maxLength": 500, "pattern": "^[ -~]*$"},
                    "min_vram_mib": {"type": "integer", "minimum": 1, "maximum": 2147483647},
                    **{
                        part: {"type": "string", "format": "decimal", "description": about}
                        for part, about in _PRICES
                    },
                },
            },
        }

    def to_internal_value(self, data: Any) -> list[Named]:
        return offers.parse(data)


class MetricsField(serializers.DictField):
    """What an agent measures: names of its own, values of any kind."""

    class Meta:
        swagger_schema_fields = {"additionalProperties": True}
