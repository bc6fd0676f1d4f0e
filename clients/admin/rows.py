"""What the pages about money have in common."""

import logging
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from django.contrib import messages
from django.contrib.admin.utils import quote
from django.db import OperationalError
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.decorators import display

from clients import books, terms
from clients.models import Account, Client
from marketplace import money
from marketplace.errors import MarketplaceError

logger = logging.getLogger(__name__)


class ReadOnly:
    """Rows that the marketplace alone writes."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class FreezeShown(ModelAdmin):
    """Money that leaves: the templates of its pages get `frozen_terms`, the terms that stop it, while it is frozen."""

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        return super().changelist_view(request, _frozen() | (extra_context or {}))

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: Any = None,
    ) -> Any:
        return super().changeform_view(request, object_id, form_url, _frozen() | (extra_context or {}))


def _frozen() -> dict[str, Any]:
    now = terms.current()
    return {"frozen_terms": now if now.payouts_frozen else None}


def amount(name: str, description: str = "") -> Callable[[Any], str]:
    """A column, or a field that is read, with an amount of money in tokens."""

    @display(description=description or name.replace("_", " "))
    def column(row: Any) -> str:
        return format_html('<span class="whitespace-nowrap">{}</span>', shown(getattr(row, name)))

    # The admin tells columns apart by their names.
    column.__name__ = f"shown_{name}"
    return column


def once(column: Callable[[Any, Any], str]) -> Callable[[Any, Any], str]:
    """For a field that asks the database: the admin calls it several times for one page."""

    @wraps(column)
    def remembered(model_admin: Any, row: Any) -> str:
        seen: dict[str, str] = row.__dict__.setdefault("_shown", {})
        if column.__name__ not in seen:
            seen[column.__name__] = column(model_admin, row)
        return seen[column.__name__]

    return remembered


def moment(name: str) -> Callable[[Any], str]:
    """A column with a time, on one line."""

    @display(description=name.replace("_", " "), ordering=name)
    def column(row: Any) -> str:
        at = getattr(row, name)
        return (
            format_html('<span class="whitespace-nowrap">{}</span>', f"{at:%Y-%m-%d %H:%M:%S}") if at else "-"
        )

    column.__name__ = f"shown_{name}"
    return column


def shown(base_units: int | None) -> str:
    return "-" if base_units is None else money.named(base_units)


def link(page: str, pk: Any, text: Any) -> str:
    """A link to a row's page in the admin, such as ("clients_account", 1, "acc_1")."""
    address = reverse(f"admin:{page}_change", args=[quote(pk)])
    return format_html('<a href="{}" class="text-link">{}</a>', address, text)


def link_to_account(account: Account) -> str:
    return link("clients_account", account.pk, f"{account.name} {account}")


def link_to_purpose(reference: str) -> str:
    """A reference, as a link to what it is for where that is known."""
    known = books.purpose_of(reference)
    return link(known[0].page, known[1], reference) if known else reference


def operator(request: HttpRequest) -> Client:
    assert isinstance(request.user, Client)
    return request.user


def do_to_each(
    model_admin: ModelAdmin, request: HttpRequest, rows: Iterable[Any], verb: Callable[[Any], str]
) -> None:
    """Do it to each, and tell the operator what became of it: `verb` gives a sentence or raises MarketplaceError."""
    for row in rows:
        try:
            sentence = verb(row)
        except OperationalError as error:
            logger.warning("Not done: %s", str(error).split("\n")[0])
            said = "the database was busy or away; look whether it was done, and else do it again."
            model_admin.message_user(request, f"{row}: {said}", messages.ERROR)
        except MarketplaceError as error:
            model_admin.message_user(request, f"{row}: {error.message}", messages.ERROR)
        else:
            model_admin.message_user(request, sentence, messages.SUCCESS)
