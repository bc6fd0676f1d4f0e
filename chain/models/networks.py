"""Which chains this marketplace follows, and how far it has read each."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models.functions import Now


class AddressField(models.CharField):
    """An address with its checksum (EIP-55), as contracts and wallets show it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"max_length": 42, **options})


class HashField(models.CharField):
    """32 bytes: 0x and 64 hexadecimal digits, in lower case."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"max_length": 66, **options})

    def db_type(self, connection: Any) -> str:
        # For a column of type varchar Django makes a second index, for LIKE.
        return f"character varying({self.max_length})"


class Network(models.Model):
    """A chain. What it is stands in the settings (`chain.networks`), and is copied here when it is first followed;
    how to reach it, and the keys, are never stored.

    All blocks up to `cursor_block` are read; its hash tells whether they are still there.
    """

    name = models.CharField(max_length=40, unique=True)
    chain_id = models.BigIntegerField(unique=True)
    contracts = models.JSONField(default=dict, help_text='Addresses by name: {"NEXUS": "0x…"}.')
    confirmations = models.PositiveIntegerField(
        help_text="So many blocks, its own included, make what happened in one final."
    )
    start_block = models.BigIntegerField(default=0)
    is_paused = models.BooleanField(
        default=False, help_text="Nothing is read from this chain, and nothing is sent to it."
    )
    cursor_block = models.BigIntegerField(default=-1)
    cursor_hash = HashField(blank=True)
    head_block = models.BigIntegerField(default=-1)
    head_at = models.DateTimeField(null=True, blank=True, help_text="The time that the newest block names.")
    polled_at = models.DateTimeField(null=True, blank=True, help_text="When its node has last answered.")
    failing_since = models.DateTimeField(null=True, blank=True)
    failures = models.PositiveIntegerField(default=0, help_text="In a row.")
    failure = models.CharField(max_length=500, blank=True)
    next_poll_at = models.DateTimeField(db_default=Now())
    # Who reads it at present: one process at a time.
    lease = models.UUIDField(null=True, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.name

    @property
    def lag(self) -> int:
        """How many blocks are known to be there and not read yet."""
        return max(self.head_block - self.cursor_block, 0)

    @property
    def final_block(self) -> int:
        """The newest block whose content counts: it is read, and has as many confirmations as are wanted."""
        return min(self.cursor_block, self.head_block - max(self.confirmations, 1) + 1)

    def address(self, contract: str) -> str:
        """Of a contract such as "NEXUS"; empty where the network has none."""
        return str(self.contracts.get(contract, ""))


class Block(models.Model):
    """The hash of a block as it was when it was read, to find out up to where two chains are the same."""

    network = models.ForeignKey(Network, models.CASCADE, related_name="blocks")
    number = models.BigIntegerField()
    hash = HashField()
    at = models.DateTimeField()

    class Meta:
        ordering = ["-number"]
        constraints = [models.UniqueConstraint("network", "number", name="block_unique")]

    def __str__(self) -> str:
        return f"{self.network} {self.number}"


class Reorganisation(models.Model):
    """Blocks that were read, and then were not part of the chain any more."""

    network = models.ForeignKey(Network, models.CASCADE, related_name="reorganisations")
    common_block = models.BigIntegerField(help_text="The newest block that both chains have.")
    depth = models.PositiveIntegerField(help_text="How many blocks were rolled back.")
    logs = models.PositiveIntegerField(help_text="How many events were taken back, to be read again.")
    at = models.DateTimeField()

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.depth} blocks of {self.network}"
