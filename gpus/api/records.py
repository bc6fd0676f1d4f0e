"""`/gpu/list/`: a person's own records of machines, in the shape of the API document."""

from typing import Any, cast

from django.db.models import QuerySet
from rest_framework.serializers import BaseSerializer
from rest_framework.viewsets import ModelViewSet

from gpus.api.fields import HARDWARE, HardwareSerializer, UserField
from gpus.models import Gpu
from marketplace.paging import BareArrayPagination


class GpuSerializer(HardwareSerializer):
    user = UserField(source="user_id", help_text="The owner's account: your own, unless you are an operator.")

    class Meta(HardwareSerializer.Meta):
        fields = ("id", *HARDWARE, "user")


class GpuViewSet(ModelViewSet[Gpu]):
    """Each user their own records, operators all of them."""

    serializer_class = GpuSerializer
    pagination_class = BareArrayPagination
    queryset = Gpu.objects.order_by("id")

    def get_queryset(self) -> QuerySet[Gpu]:
        rows, me = super().get_queryset(), self.request.user
        return rows if me.is_staff else rows.filter(user_id=me.pk)

    def perform_update(self, serializer: BaseSerializer[Gpu]) -> None:
        record = cast(Gpu, serializer.instance)
        for name, value in cast(dict[str, Any], serializer.validated_data).items():
            setattr(record, name, value)
        # The row may have gone meanwhile: then nothing is written, rather than a new row.
        Gpu.objects.filter(pk=record.pk).update(**serializer.validated_data)
