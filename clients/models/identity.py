"""Who you are: the account, and the credentials that speak for it."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from django.contrib.auth.models import AbstractUser, UserManager
from django.db import models
from django.db.models.functions import Lower
from django.db.models.lookups import Exact


class ProviderStatus(models.TextChoices):
    NONE = "none", "not a provider"
    PENDING = "pending", "asked, waits for an operator"
    APPROVED = "approved", "approved"
    REFUSED = "refused", "refused"
    SUSPENDED = "suspended", "suspended"


class ClientManager(UserManager["Client"]):
    def by_email(self, email: str) -> Client | None:
        # In the very words of the unique index, so that it is used; the database folds both sides alike.
        return self.filter(Exact(Lower("email"), Lower(models.Value(email.strip())))).first()


class Client(AbstractUser):
    """A person or a program with an account: consumer, provider, operator, or several of these.

    The API documents know a "user" and a "client" with one and the same number; here they are one row.
    """

    email = models.EmailField("email address")
    email_confirmed_at = models.DateTimeField(
        null=True, blank=True, help_text="When the person showed that the address is theirs."
    )
    phone_no = models.CharField(max_length=12, null=True, blank=True)
    user_image = models.PositiveSmallIntegerField(default=0, help_text="Number of a built-in avatar.")
    ip = models.GenericIPAddressField(null=True, blank=True, help_text="Where the last login came from.")
    terms_accepted = models.BooleanField(null=True, blank=True)
    profile_image_url = models.URLField(max_length=500, null=True, blank=True)
    google_subject = models.CharField(max_length=255, null=True, blank=True, unique=True)
    provider_status = models.CharField(
        max_length=10, choices=ProviderStatus, default=ProviderStatus.NONE, db_index=True
    )
    provider_reason = models.TextField(
        blank=True, help_text="Why it was refused or suspended; the person reads it."
    )
    provider_registration_date = models.DateTimeField(
        null=True, blank=True, help_text="When the person asked."
    )
    provider_decided_at = models.DateTimeField(null=True, blank=True)
    provider_decided_by = models.ForeignKey("self", models.SET_NULL, null=True, blank=True, related_name="+")
    closed_at = models.DateTimeField(null=True, blank=True, help_text="When the account was closed for good.")

    REQUIRED_FIELDS: ClassVar[list[str]] = ["email"]
    objects: ClassVar[ClientManager] = ClientManager()

    class Meta:
        verbose_name = "client"
        constraints = [
            models.UniqueConstraint(
                Lower("email"),
                name="client_email_unique",
                violation_error_message="A user with that e-mail address already exists.",
            )
        ]

    @property
    def role(self) -> str:
        if self.is_staff:
            return "admin"
        return "user" if self.provider_status == ProviderStatus.NONE else "gpu_provider"

    @property
    def is_gpu_provider_approved(self) -> bool:
        return self.provider_status == ProviderStatus.APPROVED


class Provider(Client):
    """The same people, as an operator sees them who decides whose nodes get work."""

    class Meta:
        proxy = True


class TokenKind(models.TextChoices):
    DEVICE = "device", "login on a device"
    ACCESS = "access", "from an API key, by /auth/token"


class ApiKey(models.Model):
    """A named key (`sk-…`) that an application sends instead of a login. Only digests are stored."""

    client = models.ForeignKey(Client, models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16, help_text="The first characters, to recognise it by.")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    secret_digest = models.CharField(max_length=64, editable=False)
    allowed_models = models.JSONField(default=list, blank=True, help_text="Model ids; empty means all.")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    revoked_reason = models.CharField(max_length=200, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    def is_usable(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class Token(models.Model):
    """A bearer token with an end: per device that logged in, or an hour for an API key and its secret."""

    client = models.ForeignKey(Client, models.CASCADE, related_name="tokens")
    kind = models.CharField(max_length=6, choices=TokenKind)
    api_key = models.ForeignKey(ApiKey, models.CASCADE, null=True, blank=True, related_name="tokens")
    prefix = models.CharField(max_length=16)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    device_digest = models.CharField(max_length=64, null=True, blank=True, unique=True, editable=False)
    user_agent = models.CharField(max_length=200, blank=True)
    ip = models.GenericIPAddressField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(db_index=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.kind} {self.prefix}…"


class Wallet(models.Model):
    """An Ethereum address that somebody has shown to be theirs."""

    client = models.ForeignKey(Client, models.CASCADE, related_name="wallets")
    address = models.CharField(max_length=42, unique=True, help_text="0x…, in lower case.")
    linked_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.address
