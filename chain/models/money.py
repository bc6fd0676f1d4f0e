"""Money that crosses: deposits, withdrawals, and the comparison of the ledger with the chain."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

from chain.models.networks import AddressField, HashField, Network
from clients.models import AccountKind
from marketplace.money import MoneyField


class DepositStatus(models.TextChoices):
    SEEN = "seen", "waits for confirmations"
    CREDITED = "credited", "credited"
    UNCLAIMED = "unclaimed", "nobody knows whose it is"
    ORPHANED = "orphaned", "credited, and its block is gone"
    REVERSED = "reversed", "taken back: its block is gone"


class Deposit(models.Model):
    """Money that came to the Treasury. It is credited once, when its block is final.

    It is known by its transaction and its place among the deposits in there: both stay when a reorganisation puts the
    transaction into another block.
    """

    network = models.ForeignKey(Network, models.PROTECT, related_name="deposits")
    transaction_hash = HashField()
    ordinal = models.PositiveIntegerField(
        help_text="Its number among the deposits of its transaction, from 0."
    )
    # Empty while it is in no block.
    block_number = models.BigIntegerField(null=True, blank=True)
    log_index = models.IntegerField(null=True, blank=True)
    sender = AddressField()
    account_number = models.DecimalField(
        max_digits=78,
        decimal_places=0,
        help_text="The account that it names; 0: the one of the sender's wallet.",
    )
    amount = MoneyField()
    client = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True, related_name="deposits"
    )
    status = models.CharField(max_length=9, choices=DepositStatus, default=DepositStatus.SEEN, db_index=True)
    reason = models.CharField(max_length=500, blank=True)
    at = models.DateTimeField(help_text="The time of its block.")
    credited_at = models.DateTimeField(null=True, blank=True)
    orphaned_at = models.DateTimeField(null=True, blank=True)
    orphaned_block = models.BigIntegerField(
        null=True, blank=True, help_text="The newest block that had been read when its own was gone."
    )
    credits = models.PositiveIntegerField(
        default=0, help_text="How often it was credited: more than once only after it was taken back."
    )

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint("network", "transaction_hash", "ordinal", name="deposit_unique")
        ]

    def __str__(self) -> str:
        return f"deposit {self.pk}"

    @property
    def reference(self) -> str:
        """What its credit is called in the ledger."""
        return f"deposit:{self.pk}:{self.credits}"


class WithdrawalStatus(models.TextChoices):
    REQUESTED = "requested", "waits for an operator"
    APPROVED = "approved", "approved; to be sent"
    SENDING = "sending", "on its way to the chain"
    CONFIRMED = "confirmed", "paid"
    REFUSED = "refused", "refused"
    CANCELLED = "cancelled", "taken back"
    FAILED = "failed", "could not be paid; the money is free again"


OPEN_WITHDRAWALS = (WithdrawalStatus.REQUESTED, WithdrawalStatus.APPROVED, WithdrawalStatus.SENDING)


class Withdrawal(models.Model):
    """Money on its way from an account to its owner's wallet; held until the chain has paid it.

    `uuid` is what the Treasury pays once and never again.
    """

    number = models.BigAutoField(primary_key=True)
    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    network = models.ForeignKey(Network, models.PROTECT, related_name="withdrawals")
    client = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="withdrawals")
    account_kind = models.CharField(
        max_length=9, choices=AccountKind, default=AccountKind.SPENDABLE, help_text="Which account it leaves."
    )
    address = AddressField()
    amount = MoneyField()
    payment_reference = HashField(
        blank=True,
        db_index=True,
        help_text="What the Treasury knows it by: the keccak256 of its uuid's bytes.",
    )
    status = models.CharField(max_length=9, choices=WithdrawalStatus, db_index=True)
    reason = models.CharField(max_length=500, blank=True)
    transaction = models.OneToOneField(
        "chain.Transaction", models.PROTECT, null=True, blank=True, related_name="withdrawal"
    )
    is_claimable = models.BooleanField(
        default=False,
        help_text="The wallet refused the money; the Treasury keeps it for the wallet to claim.",
    )
    requested_at = models.DateTimeField(db_default=Now())
    decided_at = models.DateTimeField(null=True, blank=True)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True, related_name="+"
    )
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-number"]

    def __str__(self) -> str:
        return f"withdrawal {self.number}"

    @property
    def reference(self) -> str:
        """What its hold and its transfer are called in the ledger, and its transaction in the outbox."""
        return f"withdrawal:{self.number}"


class Reconciliation(models.Model):
    """The ledger compared with the chain, at one block. Amounts in base units."""

    network = models.ForeignKey(Network, models.CASCADE, related_name="reconciliations")
    at = models.DateTimeField()
    block_number = models.BigIntegerField()
    # [{"name", "says", "ledger": "…", "chain": "…", "difference": "…", "explained": [{"says", "amount"}]}]
    lines = models.JSONField()
    unexplained = MoneyField(
        help_text="What no line explains: more (or less) on the chain than there should be."
    )
    is_balanced = models.BooleanField()
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+")

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.network} at block {self.block_number}"


class PublishedRoot(models.Model):
    """The Merkle root of a batch of receipts, on its way to a chain or there."""

    network = models.ForeignKey(Network, models.PROTECT, related_name="roots")
    batch = models.ForeignKey("inference.ReceiptBatch", models.PROTECT, related_name="published")
    transaction = models.OneToOneField("chain.Transaction", models.PROTECT, related_name="published_root")

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint("network", "batch", name="published_root_unique")]

    def __str__(self) -> str:
        return f"batch {self.batch_id} on {self.network}"
