"""What operators should know about chains now, on top of the admin's first page and of the networks."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from chain import warnings
from chain.warnings import Warning

MAY_SEE = "chain.view_network"
# Where more is said about it, or something can be done; the networks' page for all others.
_PAGES = {
    "unbalanced": ("reconciliation", "Reconciliation"),
    "unknown_payment": ("reconciliation", "Reconciliation"),
    "another_root": ("publishedroot", "Roots"),
    "waiting": ("transaction", "Outbox"),
    "orphaned": ("deposit", "Deposits"),
    "unclaimed": ("deposit", "Deposits"),
    "to_approve": ("withdrawal", "Withdrawals"),
    "unpaid": ("withdrawal", "Withdrawals"),
    "frozen": ("withdrawal", "Withdrawals"),
}


def on_dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Unfold asks it for the admin's first page."""
    for each in shown(request):
        messages.warning(request, each)
    return context


def shown(request: HttpRequest) -> list[SafeString]:
    """All warnings there are, each with a link; none for whom chains are no concern."""
    return [_shown(each) for each in _current()] if request.user.has_perm(MAY_SEE) else []


def _current() -> list[Warning]:
    try:
        return warnings.current()
    except ImproperlyConfigured as error:
        return [Warning("settings", str(error), "Mend the setting, and start anew.")]


def _shown(warning: Warning) -> SafeString:
    page, name = _PAGES.get(warning.code, ("network", "Networks"))
    return format_html(
        '<span style="overflow-wrap:anywhere"><strong>{}</strong> {} <a class="underline" href="{}">{}</a></span>',
        warning.sentence,
        warning.fix,
        reverse(f"admin:chain_{page}_changelist"),
        name,
    )
