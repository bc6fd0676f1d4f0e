"""Accounts, groups, and who is locked out."""

from typing import Any

from axes.models import AccessAttempt
from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin as BaseGroupAdmin
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import Group
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html_join
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from clients import accounts, devices, house, ledger
from clients.admin.grants import GivesCredit
from clients.admin.limits import Limited
from clients.admin.rows import link, once, shown
from clients.models import Client, ProviderStatus
from marketplace.errors import MarketplaceError

STATUS_COLOURS = {
    ProviderStatus.PENDING.label: "warning",
    ProviderStatus.APPROVED.label: "success",
    ProviderStatus.REFUSED.label: "danger",
    ProviderStatus.SUSPENDED.label: "danger",
}
PROVIDER_FIELDS = (
    "provider_status",
    "provider_reason",
    "provider_registration_date",
    "provider_decided_at",
    "provider_decided_by",
)
HISTORY_FIELDS = ("last_login", "ip", "google_subject", "date_joined", "closed_at")
MONEY_FIELDS = ("money_accounts", "limits")


@admin.register(Client)
class ClientAdmin(GivesCredit, Limited, UserAdmin, ModelAdmin):
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = (
        "username",
        "email",
        "shown_role",
        "shown_provider",
        "is_active",
        "last_login",
        "date_joined",
    )
    list_filter = ("is_active", "is_staff", "provider_status", "date_joined")
    search_fields = ("username", "email", "phone_no", "=ip")
    ordering = ("-date_joined",)
    readonly_fields = (
        "email_confirmed_at",
        "profile_image_url",
        *PROVIDER_FIELDS,
        *HISTORY_FIELDS,
        *MONEY_FIELDS,
    )
    fieldsets = (
        (None, {"fields": ("username", "email", "email_confirmed_at", "password")}),
        (
            "Person",
            {"fields": ("first_name", "last_name", "phone_no", "profile_image_url", "terms_accepted")},
        ),
        ("Money", {"fields": MONEY_FIELDS}),
        ("Provider", {"fields": PROVIDER_FIELDS}),
        ("Access", {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        ("History", {"fields": HISTORY_FIELDS}),
    )
    add_fieldsets = (
        (
            None,
            {
                "classes": ("wide",),
                "fields": ("username", "email", "usable_password", "password1", "password2"),
            },
        ),
    )
    actions = ("log_out_everywhere", "close")
    actions_detail = ("give_credit", "change_limits")

    @display(description="role", label={"admin": "info", "gpu_provider": "success"})
    def shown_role(self, client: Client) -> str:
        return client.role

    @display(description="provider", ordering="provider_status", label=STATUS_COLOURS)
    def shown_provider(self, client: Client) -> str:
        return str(ProviderStatus(client.provider_status).label)

    @display(description="accounts")
    @once
    def money_accounts(self, client: Client) -> str:
        owned = list(client.accounts.all())
        found = ledger.balances(owned)
        lines = [
            (
                link("clients_account", each.pk, f"{each.name} {each.kind}"),
                shown(found[each.pk][0]),
                shown(found[each.pk][1]),
            )
            for each in owned
        ]
        return format_html_join("", '<span class="block">{}: {}, {} of it held</span>', lines) or "none"

    @action(description="Log out on all devices", permissions=["change"])
    def log_out_everywhere(self, request: HttpRequest, queryset: QuerySet[Client]) -> None:
        ended = sum(devices.forget_all(client_id=client.pk) for client in queryset)
        self.message_user(request, f"{ended} tokens revoked.")

    @action(description="Close the accounts for good", permissions=["close"])
    def close(self, request: HttpRequest, queryset: QuerySet[Client]) -> None:
        for client in queryset:
            try:
                accounts.close(client, now=timezone.now())
            except MarketplaceError as error:
                self.message_user(request, f"{client}: {error.message}", messages.ERROR)
            else:
                self.message_user(request, f"{client} is closed. What was computed stays, without a name.")

    def save_model(self, request: HttpRequest, obj: Client, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        accounts.announce_change(obj.pk)

    def has_change_permission(self, request: HttpRequest, obj: Client | None = None) -> bool:
        # Nobody is to give the marketplace's own account a password, or let somebody in.
        return super().has_change_permission(request, obj) and not (obj is not None and house.is_house(obj))

    def has_close_permission(self, request: HttpRequest) -> bool:
        return super().has_delete_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Client | None = None) -> bool:
        # Rows stay for the history's sake: accounts are closed.
        return False


admin.site.unregister(Group)


@admin.register(Group)
class GroupAdmin(BaseGroupAdmin, ModelAdmin):
    pass


@admin.register(AccessAttempt)
class LockoutAdmin(ModelAdmin):
    """Failed logins that still count. Deleting one lets the person try again."""

    list_display = (
        "username",
        "ip_address",
        "failures_since_start",
        "attempt_time",
        "user_agent",
        "path_info",
    )
    search_fields = ("username", "=ip_address")
    readonly_fields = fields = list_display

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: AccessAttempt | None = None) -> bool:
        return False
