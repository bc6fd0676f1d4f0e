"""What the marketplace sends to chains: one row for each transaction, and one for each form of it that was signed."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from chain.models.networks import AddressField, HashField, Network
from marketplace.money import MoneyField


class Sender(models.Model):
    """An address that we send from on a network. Who assigns a nonce locks this row."""

    network = models.ForeignKey(Network, models.CASCADE, related_name="senders")
    address = AddressField()
    next_nonce = models.BigIntegerField(null=True, blank=True, help_text="Empty: ask the chain first.")
    balance = MoneyField(null=True, blank=True, help_text="For gas, when it was last read.")
    balance_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint("network", "address", name="sender_unique")]

    def __str__(self) -> str:
        return f"{self.address} on {self.network}"


class TransactionStatus(models.TextChoices):
    QUEUED = "queued", "waits to be sent"
    SIGNED = "signed", "signed, and may have been sent"
    SENT = "sent", "sent, not in a block yet"
    MINED = "mined", "in a block, not final yet"
    CONFIRMED = "confirmed", "done"
    REVERTED = "reverted", "the contract refused it"
    REFUSED = "refused", "was not sent: it would fail"
    CANCELLED = "cancelled", "taken back before it was sent"


DONE = (
    TransactionStatus.CONFIRMED,
    TransactionStatus.REVERTED,
    TransactionStatus.REFUSED,
    TransactionStatus.CANCELLED,
)
IN_FLIGHT = (TransactionStatus.SIGNED, TransactionStatus.SENT, TransactionStatus.MINED)


class Purpose(models.TextChoices):
    WITHDRAWAL = "withdrawal", "withdrawal"
    REGISTER = "register", "register with a source"
    ATTEMPT = "attempt", "attempt a task"
    RESPONSE = "response", "answer a task"
    CONFIRM = "confirm", "confirm a response"
    PUBLISH_SOURCE = "publish_source", "publish a source"
    PUBLISH_TASK = "publish_task", "publish a task"
    CANCEL_TASK = "cancel_task", "cancel a task"
    VAULT_DEPOSIT = "vault_deposit", "deposit in the Vault"
    VAULT_WITHDRAW = "vault_withdraw", "withdraw from the Vault"
    VAULT_LOCK = "vault_lock", "lock in the Vault"
    FUND = "fund", "fund the Treasury"
    ROOT = "root", "publish a root of receipts"
    FILL = "fill", "use up a nonce that nobody uses"
    TERMINAL = "terminal", "set up provider and master"


class Transaction(models.Model):
    """A transaction to be sent exactly once, whoever dies meanwhile. `reference` says what for, and is unique.

    It keeps its nonce once it has one: whatever is signed for it later (with higher fees) replaces what was signed
    before, so that only one of them can ever be carried out. It gets another one only where something else of the same
    address has used that nonce up for good, or where it was carried out and the contract refused it.
    """

    network = models.ForeignKey(Network, models.PROTECT, related_name="transactions")
    sender = AddressField()
    purpose = models.CharField(max_length=14, choices=Purpose)
    reference = models.CharField(max_length=150, unique=True)
    to = AddressField()
    data = models.TextField(blank=True, help_text="0x…")
    value = MoneyField(default=0)
    gas = models.BigIntegerField(null=True, blank=True, help_text="Its limit; empty: to be estimated.")
    # Not before this one is confirmed; refused where it fails.
    after = models.ForeignKey("self", models.PROTECT, null=True, blank=True, related_name="followers")
    expires_at = models.DateTimeField(null=True, blank=True, help_text="After this it is not begun any more.")

    status = models.CharField(
        max_length=9, choices=TransactionStatus, default=TransactionStatus.QUEUED, db_index=True
    )
    reason = models.CharField(max_length=1000, blank=True)
    nonce = models.BigIntegerField(null=True, blank=True)
    # Of what was carried out, or signed last.
    hash = HashField(blank=True, db_index=True)
    block_number = models.BigIntegerField(null=True, blank=True)
    block_hash = HashField(blank=True)
    gas_used = models.BigIntegerField(null=True, blank=True)
    gas_price = MoneyField(null=True, blank=True, help_text="Base units per gas that were paid.")
    tries = models.PositiveIntegerField(default=0)
    next_try_at = models.DateTimeField(db_default=Now())
    is_bump_wanted = models.BooleanField(
        default=False, help_text="An operator wants it signed again with higher fees."
    )
    overtaken_at = models.DateTimeField(
        null=True, blank=True, help_text="When something else was first seen to have used its nonce."
    )
    created_at = models.DateTimeField(db_default=Now())
    sent_at = models.DateTimeField(null=True, blank=True, help_text="When it was first sent.")
    mined_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                "network",
                "sender",
                "nonce",
                condition=models.Q(nonce__isnull=False),
                name="transaction_nonce_unique",
            ),
        ]
        indexes = [
            models.Index(
                fields=["network", "sender", "id"],
                condition=models.Q(status__in=["queued", "signed", "sent", "mined"]),
                name="transaction_open",
            ),
            models.Index(fields=["network", "block_number"], name="transaction_by_block"),
        ]

    def __str__(self) -> str:
        return self.reference

    @property
    def has_ended(self) -> bool:
        return self.status in DONE


class Signed(models.Model):
    """One form of a transaction that was signed, written down before it was sent."""

    transaction = models.ForeignKey(Transaction, models.CASCADE, related_name="forms")
    hash = HashField(unique=True)
    raw = models.TextField(editable=False)
    nonce = models.BigIntegerField()
    gas = models.BigIntegerField(help_text="Its limit.")
    max_fee = MoneyField()
    priority_fee = MoneyField()
    signed_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True, blank=True, help_text="When a node has last taken it.")
    is_void = models.BooleanField(default=False, help_text="It does nothing but use up the nonce.")

    class Meta:
        ordering = ["id"]
        verbose_name = "signed form"

    def __str__(self) -> str:
        return self.hash
