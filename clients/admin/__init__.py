"""What operators see and do about people, providers, credentials and money."""

from clients.admin import accounts, audit, credentials, holds, payouts, people, providers, terms, transfers

__all__ = [
    "accounts",
    "audit",
    "credentials",
    "holds",
    "payouts",
    "people",
    "providers",
    "terms",
    "transfers",
]
