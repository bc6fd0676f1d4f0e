"""What accounts and API keys may spend and send: shown with what is used, and changed with a reason."""

from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone
from django.utils.html import format_html_join
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminTextInputWidget

from clients import allowances
from clients.admin import reasons, rows
from clients.admin.reasons import ReasonForm
from clients.models import Allowance, ApiKey, Client
from marketplace import money
from marketplace.money import AmountFormField

NAMES = {
    "budget_day": "Budget per day (UTC)",
    "budget_month": "Budget per month (UTC)",
    "budget_total": "Budget altogether",
    "requests_per_minute": "Requests per minute",
    "tokens_per_minute": "Tokens per minute",
    "concurrency": "Requests at the same time",
    "max_input_price": "Highest price per million prompt tokens",
    "max_output_price": "Highest price per million completion tokens",
    "max_request_price": "Highest price per request",
}
MAY_LIMIT = "clients.change_allowance"
_MOST = 2**31 - 1


def _field(name: str) -> forms.Field:
    if name in allowances.RATES:
        return forms.IntegerField(
            label=NAMES[name],
            required=False,
            min_value=1,
            max_value=_MOST,
            widget=UnfoldAdminIntegerFieldWidget,
        )
    return AmountFormField(
        label=NAMES[name],
        required=False,
        widget=UnfoldAdminTextInputWidget(attrs={"inputmode": "decimal"}),
    )


class LimitsForm(ReasonForm):
    """Empty means no limit."""

    field_order = (*NAMES, "reason")

    def __init__(self, *args: Any, allowance: Allowance, **options: Any) -> None:
        initial = {name: getattr(allowance, name) for name in NAMES}
        super().__init__(*args, **{"initial": initial, **options})
        self.fields |= {name: _field(name) for name in NAMES}
        self.order_fields(self.field_order)
        self._allowance = allowance

    def changes(self) -> dict[str, int | None]:
        """What is other than before."""
        said = {name: self.cleaned_data[name] for name in NAMES}
        return {name: value for name, value in said.items() if value != getattr(self._allowance, name)}


class Limited:
    """The pages of clients and of API keys show their limits and have a button to change them."""

    def has_change_limits_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(MAY_LIMIT)

    @display(description="limits")
    @rows.once
    def limits(self, row: Client | ApiKey) -> str:
        lines = [(line,) for line in _lines(_allowance(row))]
        return format_html_join("", '<span class="block">{}</span>', lines) or "none"

    @action(description="Change limits", permissions=["change_limits"], url_path="limits", icon="speed")
    def change_limits(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = get_object_or_404(self.model, pk=object_id)  # type: ignore[attr-defined]
        allowance = _allowance(row)
        form = LimitsForm(request.POST if request.method == "POST" else None, allowance=allowance)
        if not (form.is_bound and form.is_valid()):
            return reasons.fill(
                request, self, form, title=f"Change the limits of {row}", note=_note(allowance)  # type: ignore[arg-type]
            )  # fmt: skip
        changes = form.changes()
        if changes:
            allowances.change_by_operator(
                row, limits=changes, by=rows.operator(request), reason=form.cleaned_data["reason"]
            )
        said = "has new limits" if changes else "has the limits that it had"
        self.message_user(request, f"{row} {said}.", messages.SUCCESS)  # type: ignore[attr-defined]
        page = "clients_apikey" if isinstance(row, ApiKey) else "clients_client"
        return redirect(f"admin:{page}_change", row.pk)


def _allowance(row: Client | ApiKey) -> Allowance:
    return allowances.of_key(row) if isinstance(row, ApiKey) else allowances.of_account(row)


def _lines(allowance: Allowance) -> list[str]:
    used = allowances.used(allowance, now=timezone.now())
    spent = {"budget_day": used.day, "budget_month": used.month, "budget_total": used.total}
    lines = []
    for name, words in NAMES.items():
        limit = getattr(allowance, name)
        if limit is None:
            continue
        if name in spent:
            lines.append(f"{words}: {money.named(spent[name])} of {money.named(limit)} used")
        elif name == "concurrency":
            lines.append(f"{words}: {limit}; {allowance.running} now")
        else:
            lines.append(f"{words}: {_shown(name, limit)}")
    return lines


def _note(allowance: Allowance) -> str:
    if allowance.pk is None:
        return "Empty means no limit. What was spent before counts too."
    used = allowances.used(allowance, now=timezone.now())
    return (
        f"Empty means no limit. Used: {money.named(used.day)} today, {money.named(used.month)} this month, "
        f"{money.named(used.total)} altogether; {allowance.running} requests run now."
    )


def _shown(name: str, value: int) -> Any:
    return value if name in allowances.RATES else money.named(value)
