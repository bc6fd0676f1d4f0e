"""Accounts, what moved between them, and what is reserved. Only `clients.ledger` writes here."""

from __future__ import annotations

from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from marketplace.money import MoneyField


class ReferenceField(models.CharField):
    """A text with one index: for a column of type varchar Django adds a second one, for LIKE."""

    def db_type(self, connection: Any) -> str:
        return f"character varying({self.max_length})"


class AccountKind(models.TextChoices):
    # A client's.
    SPENDABLE = "spendable", "spendable"
    EARNED = "earned", "earned"
    STAKED = "staked", "staked"
    # The marketplace's.
    FEES = "fees", "platform fees"
    # These two may be below zero: what the marketplace has given away, and the rest of the world.
    GRANTS = "grants", "granted credit"
    OUTSIDE = "outside", "outside world"


CLIENT_KINDS = (AccountKind.SPENDABLE, AccountKind.EARNED, AccountKind.STAKED)
UNBOUNDED_KINDS = (AccountKind.GRANTS, AccountKind.OUTSIDE)


class Account(models.Model):
    """Money of one kind that belongs to somebody.

    What it holds is `balance` and the stripes' balances together; `held` is the part of `balance` that is reserved.
    """

    client = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True, related_name="accounts"
    )
    kind = models.CharField(max_length=9, choices=AccountKind)
    balance = MoneyField(default=0)
    held = MoneyField(default=0)
    limited = models.BooleanField(
        default=False, db_default=False, help_text="Whether the client or one of its keys has an allowance."
    )
    created_at = models.DateTimeField(auto_now_add=True, db_default=Now())

    # Accounts are shown to people, and taken from them, by this name.
    PREFIX: ClassVar = "acc_"

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint("client", "kind", name="account_unique"),
            models.UniqueConstraint("kind", condition=Q(client=None), name="account_of_platform_unique"),
            models.CheckConstraint(
                condition=Q(client=None, kind__in=(AccountKind.FEES, *UNBOUNDED_KINDS))
                | Q(client__isnull=False, kind__in=CLIENT_KINDS),
                name="account_owner",
            ),
            models.CheckConstraint(
                condition=Q(kind__in=UNBOUNDED_KINDS) | Q(balance__gte=F("held")),
                name="account_not_overdrawn",
            ),
            models.CheckConstraint(condition=Q(held__gte=0), name="account_held_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.client} {self.kind}" if self.client_id else self.get_kind_display()

    @property
    def name(self) -> str:
        return f"{self.PREFIX}{self.pk}"


class Stripe(models.Model):
    """A part of an account's balance, that only some processes write to.

    Settlements of all processes credit the same few accounts; each process writes to a stripe there that it hardly ever
    shares, so that none waits for another's row lock. Whoever takes money out gathers the stripes where the balance
    alone is too small.
    """

    pk = models.CompositePrimaryKey("account_id", "number")
    account = models.ForeignKey(Account, models.PROTECT, related_name="stripes", db_index=False)
    number = models.SmallIntegerField()
    balance = MoneyField(default=0)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(balance__gte=0), name="stripe_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.account_id}/{self.number}"


class TransferKind(models.TextChoices):
    INFERENCE = "inference", "inference"
    ALLOCATION = "allocation", "allocation"
    TRAINING = "training", "fine-tuning"
    TRANSFER = "transfer", "transfer"
    GRANT = "grant", "granted credit"
    REVERSAL = "reversal", "reversal"
    DEPOSIT = "deposit", "deposit"
    PAYOUT = "payout", "payout"
    WITHDRAWAL = "withdrawal", "withdrawal"
    ONCHAIN = "onchain", "task on a chain"


class Transfer(models.Model):
    """One movement of money. The database refuses to change or delete it.

    `amount` leaves `source`; `amount - fee` arrives at `destination`, `fee` at the platform's fees.
    """

    reference = ReferenceField(max_length=150, unique=True, db_collation="C")
    kind = models.CharField(max_length=10, choices=TransferKind)
    source = models.ForeignKey(
        Account, models.DO_NOTHING, related_name="outgoing", db_constraint=False, db_index=False
    )
    destination = models.ForeignKey(
        Account, models.DO_NOTHING, related_name="incoming", db_constraint=False, db_index=False
    )
    amount = MoneyField()
    fee = MoneyField(default=0, db_default=0)
    memo = models.CharField(max_length=1024, blank=True, db_default="")
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True, related_name="+", db_index=False,
        db_constraint=False, help_text="Who made it, where that was not the payer.",
    )  # fmt: skip
    reverses = models.ForeignKey(
        "self",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="reversals",
        db_index=False,
        db_constraint=False,
    )
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["source", "id"], name="transfer_outgoing"),
            models.Index(fields=["destination", "id"], name="transfer_incoming"),
        ]
        constraints = [
            models.UniqueConstraint(
                "reverses", condition=Q(reverses__isnull=False), name="transfer_reversed_once"
            ),
            models.CheckConstraint(condition=Q(amount__gt=0), name="transfer_amount_positive"),
            models.CheckConstraint(
                condition=Q(fee__gte=0, fee__lte=F("amount")), name="transfer_fee_in_amount"
            ),
            models.CheckConstraint(condition=~Q(source=F("destination")), name="transfer_moves"),
        ]

    def __str__(self) -> str:
        return self.reference


class HoldOutcome(models.TextChoices):
    SETTLED = "settled", "settled"
    RELEASED = "released", "released"


class Hold(models.Model):
    """Money of an account that is reserved for what has begun; open until `ended_at`.

    Open, it reserves `amount - captured`. `tokens` is what it reserves of a limit on tokens per minute.
    A request's hold is deleted by the process that ends it, since the request's own record tells how. Others stay; so
    does a request's that a sweep has released, or its process could hold once more by a late repetition.
    """

    reference = ReferenceField(max_length=150, primary_key=True, db_collation="C")
    account = models.ForeignKey(
        Account, models.DO_NOTHING, related_name="holds", db_constraint=False, db_index=False
    )
    api_key_id = models.BigIntegerField(null=True, blank=True)
    amount = MoneyField()
    captured = MoneyField(default=0, db_default=0)
    tokens = models.BigIntegerField(null=True, blank=True, help_text="Empty: not a request.")
    created_at = models.DateTimeField(db_default=Now())
    # When it has last grown, and by how much on that day and in that month (UTC): budgets count it there.
    grown_at = models.DateTimeField(null=True, blank=True)
    grown_day = MoneyField(default=0, db_default=0)
    grown_month = MoneyField(default=0, db_default=0)
    ended_at = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(max_length=8, choices=HoldOutcome, blank=True, db_default="")

    class Meta:
        ordering = ["created_at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(captured__gte=0, captured__lte=F("amount")), name="hold_captured"
            ),
        ]

    def __str__(self) -> str:
        return self.reference
