"""Giving credit."""

from typing import Any
from uuid import uuid4

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils.html import format_html
from unfold.decorators import action
from unfold.widgets import UnfoldAdminTextInputWidget

from clients import grants, refunds
from clients.admin import reasons, rows
from clients.admin.reasons import ReasonForm
from clients.models import Client, Transfer
from marketplace.errors import MarketplaceError
from marketplace.money import AmountFormField

MAY_GIVE = "clients.add_transfer"


class CreditForm(ReasonForm):
    field_order = ("amount", "reason")

    amount = AmountFormField(widget=UnfoldAdminTextInputWidget(attrs={"inputmode": "decimal"}))
    # Made with the page: who sends it twice gives once.
    token = forms.UUIDField(widget=forms.HiddenInput)

    def clean_amount(self) -> int:
        amount: int = self.cleaned_data["amount"]
        if not amount:
            raise forms.ValidationError("This must be more than 0.")
        return amount


class GivesCredit:
    """The pages of clients have a button for it."""

    def has_give_credit_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(MAY_GIVE)

    @action(description="Give credit", permissions=["give_credit"], url_path="give-credit", icon="redeem")
    def give_credit(self, request: HttpRequest, object_id: str) -> HttpResponse:
        client = get_object_or_404(Client, pk=object_id)
        original = _original(request, client)
        form = _form(request, original)
        form.fields["reason"].help_text = "The person reads it in the statement."
        if request.method == "POST" and form.is_valid():
            _give(self, request, client, form.cleaned_data, original)
            return redirect("admin:clients_client_change", client.pk)
        note = "Money that nobody has paid for: it comes from the marketplace's account of granted credit."
        if original:
            note = f"Instead of giving back {original}, which can then no longer be given back. {note}"
        return reasons.fill(request, self, form, title=f"Give credit to {client}", note=note)  # type: ignore[arg-type]


def _form(request: HttpRequest, original: Transfer | None) -> CreditForm:
    if request.method == "POST":
        return CreditForm(request.POST)
    initial: dict[str, Any] = {"token": uuid4()}
    if original:
        initial |= {"amount": original.amount, "reason": f"Instead of a refund of {original}."}
    form = CreditForm(initial=initial)
    form.fields["amount"].help_text = "Whole tokens and their decimals, such as 12.5."
    return form


def _original(request: HttpRequest, client: Client) -> Transfer | None:
    """The transfer of this client that credit shall make good, where the address names one."""
    pk = request.GET.get("instead_of", "")
    if not (pk.isascii() and pk.isdecimal() and len(pk) <= 18):
        return None
    return Transfer.objects.filter(pk=pk, source__client=client).select_related("source__client").first()


def _give(
    model_admin: Any, request: HttpRequest, client: Client, said: dict[str, Any], original: Transfer | None
) -> None:
    amount, reason, by = said["amount"], said["reason"], rows.operator(request)
    try:
        if original is not None:
            given = refunds.give_credit_instead(original, amount=amount, by=by, reason=reason)
        else:
            reference = f"grant:{said['token']}"
            given = grants.give(client=client, amount=amount, reference=reference, by=by, reason=reason)
    except MarketplaceError as error:
        model_admin.message_user(request, error.message, messages.ERROR)
        return
    text = format_html(
        "{} has {} more: {}.", client, rows.shown(amount), rows.link("clients_transfer", given.pk, given)
    )
    model_admin.message_user(request, text, messages.SUCCESS)
