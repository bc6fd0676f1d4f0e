"""Money that is reserved, for what and since when; freeing what should have been freed."""

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.timesince import timesince
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.paginator import InfinitePaginator

from clients import holds
from clients.admin import reasons, rows
from clients.admin.rows import ReadOnly, amount
from clients.holds import Finding
from clients.models import Hold

AGES = {
    "1m": timedelta(minutes=1),
    "10m": timedelta(minutes=10),
    "1h": timedelta(hours=1),
    "1d": timedelta(days=1),
}
MAY_RELEASE = "clients.change_hold"


class StateFilter(admin.SimpleListFilter):
    """Open ones, where nothing else is asked for."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("ended", "ended"), ("all", "all")]

    def choices(self, changelist: Any) -> Any:
        first, *others = super().choices(changelist)
        return [first | {"display": "open"}, *others]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Hold]) -> QuerySet[Hold]:
        if self.value() == "ended":
            return queryset.exclude(ended_at=None)
        return queryset if self.value() == "all" else queryset.filter(ended_at=None)


class AgeFilter(admin.SimpleListFilter):
    title = "age"
    parameter_name = "older"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = ("a minute", "ten minutes", "an hour", "a day")
        return [(key, f"over {name}") for key, name in zip(AGES, names, strict=True)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Hold]) -> QuerySet[Hold]:
        age = AGES.get(self.value() or "")
        return queryset.filter(created_at__lt=timezone.now() - age) if age else queryset


@admin.register(Hold)
class HoldAdmin(ReadOnly, ModelAdmin):
    """Open holds, the oldest on top. Those that should have ended by now say so."""

    list_display = ("reference", "account", "reserved", "since", "what_for", "standing", "on_time")
    list_display_links = ("reference",)
    list_filter = (StateFilter, AgeFilter)
    list_filter_submit = True
    list_select_related = ("account__client",)
    paginator = InfinitePaginator
    show_full_result_count = False
    search_fields = ("=reference",)
    search_help_text = "A reference: all of it."
    fields = (
        *("reference", "owner", amount("amount", "held"), amount("captured"), "reserved", "tokens"),
        *("created_at", "since", "ended_at", "what_for", "standing", "on_time"),
    )
    readonly_fields = ("owner", "reserved", "since", "what_for", "standing", "on_time")
    actions = ("release",)
    actions_detail = ("release_one",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Hold]:
        found: QuerySet[Hold] = super().get_queryset(request)
        return found.select_related("account__client")

    def get_ordering(self, request: HttpRequest) -> tuple[Any, ...]:
        return (F("ended_at").desc(nulls_first=True), "created_at", "pk")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        page = super().get_changelist_instance(request)
        found = holds.look(page.result_list, now=timezone.now())
        for hold in page.result_list:
            hold.finding = found[hold.reference]
        return page

    def has_release_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(MAY_RELEASE)

    @display(description="account")
    def owner(self, hold: Hold) -> str:
        return rows.link_to_account(hold.account)

    @display(description="still reserved")
    def reserved(self, hold: Hold) -> str:
        return rows.shown(0 if hold.ended_at else hold.amount - hold.captured)

    @display(description="age", ordering="created_at")
    def since(self, hold: Hold) -> str:
        age = (hold.ended_at or timezone.now()) - hold.created_at
        return f"{age.seconds} seconds" if age < AGES["1m"] else timesince(timezone.now() - age)

    @display(description="what for")
    def what_for(self, hold: Hold) -> str:
        return rows.link_to_purpose(hold.reference)

    @display(description="what became of that")
    def standing(self, hold: Hold) -> str:
        return _finding(hold).says

    @display(description="on time", label={"on time": "success", "overdue": "danger", "ended": "info"})
    def on_time(self, hold: Hold) -> str:
        return "ended" if hold.ended_at else "overdue" if _finding(hold).late else "on time"

    @action(description="Release, with a reason", permissions=["release"])
    def release(self, request: HttpRequest, queryset: QuerySet[Hold]) -> HttpResponse | None:
        def verb(hold: Hold, reason: str) -> str:
            holds.release(hold, by=rows.operator(request), reason=reason, now=timezone.now())
            return f"{hold}: {rows.shown(hold.amount - hold.captured)} of {hold.account} are free again."

        return reasons.do_to_each(
            self,
            request,
            queryset,
            verb,
            title="Release",
            note=NOTE,
            seen_by="It is kept in the audit.",
            describe=lambda each: f"{each}: {rows.shown(each.amount - each.captured)} of {each.account}",
        )

    @action(description="Release", permissions=["release"], url_path="release", icon="lock_open")
    def release_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        asked = self.release(request, self.get_queryset(request).filter(pk=unquote(object_id)))
        return asked or redirect("admin:clients_hold_changelist")


NOTE = "Frees what is reserved, where what it was for has ended. Nothing is paid."


def _finding(hold: Hold) -> Finding:
    found: Finding | None = getattr(hold, "finding", None)
    if found is None:
        found = holds.look([hold], now=timezone.now())[hold.reference]
        hold.finding = found  # type: ignore[attr-defined]
    return found
