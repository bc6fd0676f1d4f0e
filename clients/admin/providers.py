"""Who may provide: requests to approve or refuse, providers to suspend."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import Case, QuerySet, When
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from clients import providers
from clients.admin import reasons, rows
from clients.admin.people import PROVIDER_FIELDS, STATUS_COLOURS
from clients.models import Client, Provider, ProviderStatus
from marketplace.errors import MarketplaceError


@admin.register(Provider)
class ProviderAdmin(ModelAdmin):
    """Everybody who asked to become a provider; those who wait come first."""

    form = reasons.WithReason
    list_display = (
        "username",
        "email",
        "shown_status",
        "provider_reason",
        "provider_registration_date",
        "decided",
    )
    list_filter = ("provider_status",)
    search_fields = ("username", "email")
    fields = ("username", "email", *PROVIDER_FIELDS, "reason")
    readonly_fields = ("username", "email", *PROVIDER_FIELDS)
    actions = ("approve", "refuse", "suspend")
    actions_submit_line = ("approve_one", "refuse_one", "suspend_one")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        asked = Provider.objects.exclude(provider_status=ProviderStatus.NONE)
        return asked.select_related("provider_decided_by")

    def get_ordering(self, request: HttpRequest) -> tuple[Any, ...]:
        waits = Case(When(provider_status=ProviderStatus.PENDING, then=0), default=1)
        return (waits, "-provider_registration_date", "pk")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Provider | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Provider, form: Any, change: bool) -> None:
        # Nothing here is typed over; the buttons decide.
        for button in self.get_actions_submit_line(request, obj.pk):
            if button.action_name in request.POST:
                button.method(request, obj)

    @display(description="status", ordering="provider_status", label=STATUS_COLOURS)
    def shown_status(self, provider: Provider) -> str:
        return str(ProviderStatus(provider.provider_status).label)

    @display(description="decided", ordering="provider_decided_at")
    def decided(self, provider: Provider) -> str:
        if provider.provider_decided_at is None:
            return "-"
        by = provider.provider_decided_by or "the settings"
        return f"{provider.provider_decided_at:%Y-%m-%d %H:%M} by {by}"

    @action(description="Approve", permissions=["change"])
    def approve(self, request: HttpRequest, queryset: QuerySet[Provider]) -> None:
        self._decide(request, queryset, providers.approve)

    @action(description="Refuse, with a reason", permissions=["change"])
    def refuse(self, request: HttpRequest, queryset: QuerySet[Provider]) -> HttpResponse | None:
        reason = reasons.ask(request, self, queryset, title="Refuse these requests")
        if isinstance(reason, HttpResponse):
            return reason
        self._decide(request, queryset, providers.refuse, reason=reason)
        return None

    @action(description="Suspend, with a reason", permissions=["change"])
    def suspend(self, request: HttpRequest, queryset: QuerySet[Provider]) -> HttpResponse | None:
        reason = reasons.ask(request, self, queryset, title="Suspend these providers")
        if isinstance(reason, HttpResponse):
            return reason
        self._decide(request, queryset, providers.suspend, reason=reason)
        return None

    @action(description="Approve", permissions=["change"])
    def approve_one(self, request: HttpRequest, obj: Provider) -> None:
        self._decide(request, [obj], providers.approve)

    @action(description="Refuse", permissions=["change"])
    def refuse_one(self, request: HttpRequest, obj: Provider) -> None:
        self._decide(request, [obj], providers.refuse, reason=request.POST.get("reason", ""))

    @action(description="Suspend", permissions=["change"])
    def suspend_one(self, request: HttpRequest, obj: Provider) -> None:
        self._decide(request, [obj], providers.suspend, reason=request.POST.get("reason", ""))

    def _decide(
        self,
        request: HttpRequest,
        people: QuerySet[Provider] | list[Provider],
        verb: Callable[..., Client],
        **options: str,
    ) -> None:
        """Do it to each, and tell the operator what became of it."""
        for person in people:
            try:
                client = verb(person, by=rows.operator(request), now=timezone.now(), **options)
            except MarketplaceError as error:
                self.message_user(request, f"{person}: {error.message}", messages.ERROR)
            else:
                label = ProviderStatus(client.provider_status).label
                self.message_user(request, f"{person} is now “{label}”.", messages.SUCCESS)
