"""The marketplace's terms: changed by a new row, never edited; and the switch for payouts."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Field
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminTextInputWidget

from clients import terms
from clients.admin import reasons, rows
from clients.admin.rows import amount, moment
from clients.models import Terms
from marketplace.money import MoneyField

MAY_CHANGE = "clients.add_terms"
UNITS = ("input", "output", "request", "hour", "training")
WORDS = {
    "input": "per million prompt tokens",
    "output": "per million completion tokens",
    "request": "per request",
    "hour": "per GPU-hour",
    "training": "per million tokens trained on",
}
EDGES = {"default": "Default price", "min": "Lowest price", "max": "Highest price"}
PRICES = {f"{edge}_{unit}_price": f"{EDGES[edge]} {WORDS[unit]}" for edge in EDGES for unit in UNITS}
WITHDRAWALS = {
    "withdrawal_minimum": "Smallest withdrawal",
    "withdrawal_daily": "Most that a client withdraws on a day (UTC)",
    "withdrawal_approval_above": "Above this an operator approves it",
}
VALUES = ("fee_bps", *PRICES, *WITHDRAWALS, "payouts_frozen")


class TermsForm(forms.ModelForm):
    """The present terms, to be changed. `based_on` says which these were when the page was made."""

    based_on = forms.CharField(widget=forms.HiddenInput, required=False)

    class Meta:
        model = Terms
        fields = (*VALUES, "reason")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for name, label in (PRICES | WITHDRAWALS).items():
            if name in self.fields:
                self.fields[name].label = label

    def clean(self) -> dict[str, Any]:
        said = super().clean() or {}
        if said.get("based_on", "") != str(terms.current().pk or ""):
            raise forms.ValidationError("Somebody has changed the terms meanwhile. Open this page again.")
        for unit in UNITS:
            self._check(unit, said)
        if not self.errors and not self.changes():
            raise forms.ValidationError("Nothing is other than before.")
        return said

    def _check(self, unit: str, said: dict[str, Any]) -> None:
        lowest, highest = said.get(f"min_{unit}_price"), said.get(f"max_{unit}_price")
        if lowest is not None and highest is not None and lowest > highest:
            self.add_error(f"max_{unit}_price", "This is below the lowest price.")
        default = said.get(f"default_{unit}_price")
        if default is not None and highest is not None and default > highest:
            self.add_error(f"default_{unit}_price", "This is above the highest price.")
        if default is not None and lowest is not None and default < lowest:
            self.add_error(f"default_{unit}_price", "This is below the lowest price.")

    def changes(self) -> dict[str, Any]:
        """What is other than before."""
        before = terms.current()
        said = {name: self.cleaned_data[name] for name in VALUES if name in self.cleaned_data}
        return {name: value for name, value in said.items() if value != getattr(before, name)}


@admin.register(Terms)
class TermsAdmin(ModelAdmin):
    """All terms there have been, the present ones on top."""

    form = TermsForm
    list_display = (moment("at"), "by", "reason", "fee", "frozen", "defaults", "limits")
    list_select_related = ("by",)
    list_filter = ("at",)
    search_fields = ("reason", "by__username")
    actions_list = ("freeze_payouts", "unfreeze_payouts")
    formfield_overrides = {MoneyField: {"widget": UnfoldAdminTextInputWidget(attrs={"inputmode": "decimal"})}}
    readonly_fields = (
        "fee",
        "frozen",
        *(amount(name, label) for name, label in (PRICES | WITHDRAWALS).items()),
    )

    def get_fieldsets(self, request: HttpRequest, obj: Terms | None = None) -> Any:
        if obj is None:
            prices: Any = [*PRICES, *WITHDRAWALS]
            first: tuple[str, ...] = ("fee_bps", "payouts_frozen", "reason", "based_on")
        else:
            prices = [field for field in self.readonly_fields if callable(field)]
            first = ("at", "by", "reason", "fee", "frozen")
        size = len(UNITS)
        return (
            (None, {"fields": first}),
            ("What nodes cost whose owners have set no price", {"fields": tuple(prices[:size])}),
            (
                "What providers may ask; empty binds nobody",
                {"fields": tuple(zip(prices[size : 2 * size], prices[2 * size : 3 * size], strict=True))},
            ),
            ("Withdrawals to wallets; empty is no limit", {"fields": tuple(prices[3 * size :])}),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Terms | None = None) -> Any:
        return self.readonly_fields if obj else ()

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        now = terms.current()
        return {name: getattr(now, name) for name in VALUES} | {"based_on": str(now.pk or "")}

    def formfield_for_dbfield(self, db_field: Field[Any, Any], request: HttpRequest, **options: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **options)
        if field is not None and db_field.name.startswith("default_"):
            field.required = True
        return field

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> Any:
        shown = {
            "title": "Change the terms",
            "show_save_and_add_another": False,
            "show_save_and_continue": False,
        }
        return super().add_view(request, form_url, shown | (extra_context or {}))

    def save_model(self, request: HttpRequest, obj: Terms, form: TermsForm, change: bool) -> None:
        # The id, for what Django does with the row afterwards.
        obj.pk = terms.change(by=rows.operator(request), reason=obj.reason, **form.changes()).pk

    def has_change_permission(self, request: HttpRequest, obj: Terms | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Terms | None = None) -> bool:
        return False

    def has_freeze_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(MAY_CHANGE)

    def get_actions_list(self, request: HttpRequest) -> Any:
        """Of the two positions of the switch, the one in which it is not."""
        other = "unfreeze_payouts" if terms.current().payouts_frozen else "freeze_payouts"
        return [
            each for each in super().get_actions_list(request) if each.action_name.endswith(f"terms_{other}")
        ]

    @display(description="fee", ordering="fee_bps")
    def fee(self, row: Terms) -> str:
        return f"{row.fee_bps / 100:g} %"

    @display(description="payouts", label={"frozen": "danger", "paid": "success"})
    def frozen(self, row: Terms) -> str:
        return "frozen" if row.payouts_frozen else "paid"

    @display(description="default prices in / out / request / hour / training")
    def defaults(self, row: Terms) -> str:
        return " / ".join(rows.shown(getattr(row, f"default_{unit}_price")) for unit in UNITS)

    @display(description="limits of prices in / out / request / hour / training")
    def limits(self, row: Terms) -> str:
        return " / ".join(_limits(row, unit) for unit in UNITS)

    @action(
        description="Freeze payouts", permissions=["freeze"], url_path="freeze-payouts", icon="ac_unit",
        variant=ActionVariant.DANGER,
    )  # fmt: skip
    def freeze_payouts(self, request: HttpRequest) -> HttpResponse:
        note = (
            "No payout or withdrawal is paid until somebody unfreezes them; what is signed already goes on. So does "
            "inference, and so do requests for payouts."
        )
        return self._switch(request, frozen=True, title="Freeze payouts", note=note)

    @action(
        description="Unfreeze payouts", permissions=["freeze"], url_path="unfreeze-payouts", icon="sunny",
        variant=ActionVariant.SUCCESS,
    )  # fmt: skip
    def unfreeze_payouts(self, request: HttpRequest) -> HttpResponse:
        return self._switch(
            request, frozen=False, title="Unfreeze payouts", note="Payouts and withdrawals can be paid again."
        )

    def _switch(self, request: HttpRequest, *, frozen: bool, title: str, note: str) -> HttpResponse:
        reason = reasons.ask(
            request, self, Terms.objects.none(), title=title, note=note, seen_by="It is kept with the terms."
        )
        if isinstance(reason, HttpResponse):
            return reason
        state = "frozen" if frozen else "paid"
        if terms.current().payouts_frozen == frozen:
            self.message_user(request, f"Payouts are {state} already.", messages.INFO)
        else:
            terms.change(by=rows.operator(request), reason=reason, payouts_frozen=frozen)
            self.message_user(request, f"Payouts are {state} from now on.", messages.SUCCESS)
        return redirect("admin:clients_terms_changelist")


def _limits(row: Terms, unit: str) -> str:
    lowest, highest = getattr(row, f"min_{unit}_price"), getattr(row, f"max_{unit}_price")
    if lowest is None and highest is None:
        return "any"
    if highest is None:
        return f"from {rows.shown(lowest)}"
    return f"{rows.shown(lowest or 0)} to {rows.shown(highest)}"
