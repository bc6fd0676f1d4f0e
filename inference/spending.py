"""What requests have cost, for limits that are set after them."""

from collections.abc import Mapping
from datetime import UTC, date, datetime

from django.db.models import Count, F, Sum
from django.db.models.functions import TruncDate

from clients.allowances import Ended
from inference.models import Inference


def ended(client_id: int, api_key_id: int | None, minute: datetime) -> Ended:
    """The requests of an account, or of one of its keys, that have ended. Their holds are gone with their ends."""
    records = Inference.objects.filter(client_id=client_id, running=None).order_by()
    if api_key_id is not None:
        records = records.filter(api_key_id=api_key_id)
    recent = records.filter(created_at__gte=minute).aggregate(
        requests=Count("pk"), tokens=Sum(F("prompt_tokens") + F("completion_tokens"))
    )
    days = records.filter(charged__gt=0).annotate(day=TruncDate("created_at", tzinfo=UTC)).values_list("day")
    by_day: Mapping[date, int] = {day: int(spent) for day, spent in days.annotate(spent=Sum("charged"))}
    return Ended(by_day=by_day, requests=recent["requests"], tokens=recent["tokens"] or 0)
