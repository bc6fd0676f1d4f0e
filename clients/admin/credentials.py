"""API keys and tokens: who has which, used when; cutting one off. Digests are never shown."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from clients import devices, keys
from clients.admin import reasons
from clients.admin.limits import Limited
from clients.models import ApiKey, Token


@admin.register(ApiKey)
class ApiKeyAdmin(Limited, ModelAdmin):
    form = reasons.WithReason
    list_display = (
        "name",
        "prefix",
        "client",
        "state",
        "created_at",
        "last_used_at",
        "expires_at",
    )
    list_filter = (("revoked_at", admin.EmptyFieldListFilter), "created_at", "last_used_at")
    list_select_related = ("client",)
    search_fields = ("name", "prefix", "client__username", "client__email")
    fields = (
        "client",
        "name",
        "prefix",
        "allowed_models",
        "limits",
        "created_at",
        "expires_at",
        "last_used_at",
        "revoked_at",
        "revoked_reason",
        "reason",
    )
    readonly_fields = fields[:-1]
    actions = ("cut_off",)
    actions_submit_line = ("cut_off_one",)
    actions_detail = ("change_limits",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        # A key that an operator has seen is not its owner's alone.
        return False

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        for button in self.get_actions_submit_line(request, obj.pk):
            if button.action_name in request.POST:
                button.method(request, obj)

    @display(description="state", label={"valid": "success", "expired": "warning", "revoked": "danger"})
    def state(self, key: ApiKey) -> str:
        if key.revoked_at is not None:
            return "revoked"
        return "valid" if key.is_usable(timezone.now()) else "expired"

    @action(description="Cut off, with a reason", permissions=["change"])
    def cut_off(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        reason = reasons.ask(request, self, queryset, title="Cut off these API keys")
        if isinstance(reason, HttpResponse):
            return reason
        count = keys.cut_off(queryset, reason=reason, now=timezone.now())
        self.message_user(request, f"{count} API keys cut off.", messages.SUCCESS)
        return None

    @action(description="Cut off", permissions=["change"])
    def cut_off_one(self, request: HttpRequest, obj: ApiKey) -> None:
        reason = request.POST.get("reason", "").strip()
        if not reason:
            self.message_user(request, "Say why; the owner reads it.", messages.ERROR)
            return
        keys.revoke(obj, reason=reason, now=timezone.now())
        self.message_user(request, f"{obj} is cut off.", messages.SUCCESS)


@admin.register(Token)
class TokenAdmin(ModelAdmin):
    list_display = (
        "prefix",
        "client",
        "kind",
        "api_key",
        "ip",
        "user_agent",
        "created_at",
        "last_used_at",
        "expires_at",
    )
    list_filter = ("kind", "created_at", "expires_at")
    list_select_related = ("client", "api_key")
    search_fields = ("prefix", "client__username", "client__email", "=ip")
    readonly_fields = fields = list_display
    actions = ("revoke",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Token | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Token | None = None) -> bool:
        # Deleting here would not tell the web processes; the action does.
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return super().has_delete_permission(request)

    @action(description="Revoke", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Token]) -> None:
        count = devices.forget_selected(queryset)
        self.message_user(request, f"{count} tokens revoked.", messages.SUCCESS)
