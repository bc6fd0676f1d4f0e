"""What operators see and do about people, providers and credentials."""

from clients.admin import credentials, people, providers

__all__ = ["credentials", "people", "providers"]
