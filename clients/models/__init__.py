"""Who you are and what you have: accounts of people, their credentials, and their money."""

from clients.models.allowances import Allowance
from clients.models.files import Blob, Upload, UploadPart, UploadStatus
from clients.models.idempotency import StoredReply
from clients.models.identity import (
    ApiKey,
    Client,
    ClientManager,
    Provider,
    ProviderStatus,
    Token,
    TokenKind,
    Wallet,
)
from clients.models.ledger import Account, AccountKind, Hold, HoldOutcome, Stripe, Transfer, TransferKind
from clients.models.operators import AuditEntry, Terms
from clients.models.payouts import Payout, PayoutStatus

__all__ = [
    "Account",
    "AccountKind",
    "Allowance",
    "ApiKey",
    "AuditEntry",
    "Blob",
    "Client",
    "ClientManager",
    "Hold",
    "HoldOutcome",
    "Payout",
    "PayoutStatus",
    "Provider",
    "ProviderStatus",
    "StoredReply",
    "Stripe",
    "Terms",
    "Token",
    "TokenKind",
    "Transfer",
    "TransferKind",
    "Upload",
    "UploadPart",
    "UploadStatus",
    "Wallet",
]
