"""How much of what clients may store is in datasets of theirs."""

from django.db.models import Sum

from clients import quotas
from finetune.models import Dataset


def _datasets(client_id: int) -> int:
    found = Dataset.objects.filter(owner_id=client_id, deleted_at=None)
    return found.aggregate(total=Sum("size"))["total"] or 0


quotas.count("datasets", _datasets)
