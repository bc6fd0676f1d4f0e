"""The marketplace's terms: its fee, what providers may ask, and whether payouts are paid."""

from typing import Any

from django.db import connection, transaction

from clients import audit
from clients.models import Client, Terms
from marketplace import money
from marketplace.bus import announce
from marketplace.money import MoneyField

UNSET = Terms(fee_bps=0, reason="")


def current() -> Terms:
    """The terms that hold now; where nobody has set any, nothing costs anything (`pk` is None)."""
    return Terms.objects.first() or UNSET


@transaction.atomic
def change(*, by: Client, reason: str, **changes: Any) -> Terms:
    """New terms from now on: the present ones with `changes`. What runs keeps the terms that it began with."""
    with connection.cursor() as cursor:
        # One change at a time, or the later of two would undo the earlier.
        cursor.execute("LOCK TABLE clients_terms IN SHARE ROW EXCLUSIVE MODE")
    before = current()
    values = {
        field.attname: getattr(before, field.attname)
        for field in Terms._meta.concrete_fields
        if field.attname not in ("id", "at", "by_id", "reason")
    }
    after = Terms.objects.create(**(values | changes), by=by, reason=reason)
    differences = {
        name: [_shown(name, values[name]), _shown(name, changes[name])]
        for name in changes
        if values[name] != changes[name]
    }
    audit.note(by=by, action="change_terms", subject=f"terms {after.pk}", reason=reason, details=differences)
    transaction.on_commit(lambda: announce("terms", str(after.pk)))
    return after


def _shown(name: str, value: Any) -> Any:
    is_money = isinstance(Terms._meta.get_field(name), MoneyField)
    return money.render(value) if is_money and value is not None else value
