"""Fields that more than one endpoint takes."""

from collections.abc import Callable
from typing import Any

from drf_yasg import openapi
from rest_framework import serializers

from clients.models import Client
from gpus import offers, talents
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


class TalentField(serializers.JSONField):
    """What a node offers besides answering; `read` says what stands in it."""

    def __init__(self, read: Callable[[Any], Any], **kwargs: Any) -> None:
        self._read = read
        super().__init__(required=False, allow_null=True, **kwargs)

    def to_internal_value(self, data: Any) -> Any:
        return self._read(data)


class TrainingField(TalentField):
    class Meta:
        swagger_schema_fields = {
            "type": openapi.TYPE_OBJECT,
            "properties": {
                "methods": {"type": "array", "items": {"type": "string", "enum": list(talents.METHODS)}},
                "slots": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 64,
                    "description": "Trainings at once.",
                },
                "device": {"type": "string", "description": "cpu, or the name of the GPU."},
                "gpus": {"type": "integer", "minimum": 1, "maximum": 64},
                "memory_mib": {"type": "integer", "minimum": 0},
            },
        }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(talents.Training.read, **kwargs)


class HostingField(TalentField):
    class Meta:
        swagger_schema_fields = {
            "type": openapi.TYPE_OBJECT,
            "properties": {
                "engine": {"type": "string", "enum": list(talents.ENGINES)},
                "families": {"type": "array", "items": {"type": "string", "enum": list(talents.METHODS)}},
                "adapters": {"type": "boolean", "description": "LoRA adapters over a base."},
                "full": {"type": "boolean", "description": "Models with all of their weights."},
                "most": {"type": "integer", "minimum": 0, "maximum": 1000, "description": "Models at once."},
                "bases": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "What it serves already.",
                },
            },
        }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(talents.HostingTalent.read, **kwargs)


class MetricsField(serializers.DictField):
    """What an agent measures: names of its own, values of any kind."""

    class Meta:
        swagger_schema_fields = {"additionalProperties": True}
