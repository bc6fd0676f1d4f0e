"""What people have the marketplace publish for them who have no wallet, and files that tasks point to."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

from chain.models.events import DeliveryMethod
from chain.models.networks import AddressField, Network
from marketplace.money import MoneyField


class OrderStatus(models.TextChoices):
    PUBLISHING = "publishing", "on its way to the chain"
    PUBLISHED = "published", "published"
    CONFIRMING = "confirming", "a confirmation is on its way"
    CANCELLING = "cancelling", "its payment is on its way back"
    FINISHED = "finished", "a response was confirmed and paid"
    CANCELLED = "cancelled", "cancelled; nothing was charged"
    EXPIRED = "expired", "expired; nothing was charged"
    FAILED = "failed", "could not be published; nothing was charged"


ENDED_ORDERS = (OrderStatus.FINISHED, OrderStatus.CANCELLED, OrderStatus.EXPIRED, OrderStatus.FAILED)


class VaultFloat(models.Model):
    """What lies in our balance in a network's Vault and belongs to no order: it came back from orders that came to
    nothing, and pays for the next ones. Who gives to it or takes from it locks it.
    """

    network = models.ForeignKey(Network, models.PROTECT, related_name="floats")
    address = AddressField(help_text="Whose balance in the Vault.")
    free = MoneyField(default=0)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint("network", "address", name="vault_float_unique"),
            models.CheckConstraint(condition=models.Q(free__gte=0), name="vault_float_not_negative"),
        ]

    def __str__(self) -> str:
        return f"float of {self.address} on {self.network}"


class TaskOrder(models.Model):
    """A task that the marketplace publishes and pays on the chain for somebody, out of that person's account.

    Its payment is held until a response is confirmed (then it leaves the books) or the Vault has given it back.
    """

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="task_orders")
    network = models.ForeignKey(Network, models.PROTECT, related_name="task_orders")
    source_address = AddressField()
    function = models.CharField(max_length=100)
    config_url = models.TextField()
    payment = MoneyField()
    # Our address that publishes it, and how much of the payment lay in its balance in the Vault before.
    publisher = AddressField()
    reused = MoneyField(default=0)
    paid = MoneyField(null=True, blank=True, help_text="What the confirmed response was paid.")
    expires_at = models.DateTimeField()
    status = models.CharField(
        max_length=10, choices=OrderStatus, default=OrderStatus.PUBLISHING, db_index=True
    )
    reason = models.CharField(max_length=1000, blank=True)
    deposit = models.ForeignKey("chain.Transaction", models.PROTECT, null=True, blank=True, related_name="+")
    publication = models.ForeignKey(
        "chain.Transaction", models.PROTECT, null=True, blank=True, related_name="+"
    )
    confirmation = models.ForeignKey(
        "chain.Transaction", models.PROTECT, null=True, blank=True, related_name="+"
    )
    cancellation = models.ForeignKey(
        "chain.Transaction", models.PROTECT, null=True, blank=True, related_name="+"
    )
    task_address = AddressField(blank=True, db_index=True)
    created_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(
                fields=["expires_at"],
                condition=models.Q(status__in=["publishing", "published", "confirming", "cancelling"]),
                name="task_order_open",
            ),
        ]

    def __str__(self) -> str:
        return f"task order {self.pk}"

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED_ORDERS

    @property
    def reference(self) -> str:
        """What its hold and its transfer are called in the ledger."""
        return f"task-order:{self.pk}"


class SourceOrder(models.Model):
    """A source that the marketplace publishes for somebody."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="source_orders")
    network = models.ForeignKey(Network, models.PROTECT, related_name="source_orders")
    name = models.CharField(max_length=200)
    metadata_url = models.TextField()
    delivery_method = models.PositiveSmallIntegerField(choices=DeliveryMethod)
    publication = models.OneToOneField("chain.Transaction", models.PROTECT, related_name="source_order")
    source_address = AddressField(blank=True, db_index=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"source order {self.pk}"


class Pin(models.Model):
    """A small file that is kept under the name of its content (a CID), as IPFS would keep it."""

    cid = models.CharField(primary_key=True, max_length=100)
    blob = models.ForeignKey("clients.Blob", models.PROTECT, related_name="+")
    filename = models.CharField(max_length=200, blank=True)
    content_type = models.CharField(max_length=100, blank=True)
    size = models.PositiveIntegerField(help_text="Bytes.")
    created_at = models.DateTimeField(db_default=Now())
    # Strangers' pins are dropped then, unless something on a chain points to them.
    keep_until = models.DateTimeField(null=True, blank=True, help_text="Empty: for ever.")

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.cid
