"""Migrate the database, and open the accounts that a local marketplace starts with.

The supervisor runs it as a process of its own: `python -m marketplace.embedded.prepare FILE`. FILE holds the
accounts' credentials; what is missing there or no longer works is made anew. Repeating changes nothing else.
"""

import json
import secrets
import sys
from datetime import datetime
from pathlib import Path

import django
from django.core.exceptions import ImproperlyConfigured

try:
    django.setup()  # before anything that needs the models
except ImproperlyConfigured as error:
    sys.exit(str(error))

from django.core.management import call_command
from django.db import OperationalError
from django.utils import timezone

from clients import accounts, keys, ledger, providers, terms
from clients.credentials import identify
from clients.models import Client
from marketplace import money
from marketplace.embedded.home import write_private
from marketplace.errors import Unauthenticated

Credentials = dict[str, dict[str, str]]


def prepare(file: Path, *, now: datetime) -> None:
    call_command("migrate", interactive=False, verbosity=0)
    known: Credentials = json.loads(file.read_text()) if file.exists() else {}
    found: Credentials = {
        name: {"email": f"{name}@localhost"} for name in ("operator", "consumer", "provider")
    }
    for name, account in found.items():
        person, password = _person(name, account["email"], known.get(name, {}))
        account["password"] = password
        if name != "operator":
            account |= _key(person, known.get(name, {}), now=now)
    _approve_provider(now=now)
    _open_for_business()
    if found != known:
        write_private(file, json.dumps(found, indent=1) + "\n")


def _person(name: str, email: str, known: dict[str, str]) -> tuple[Client, str]:
    """The account and its password; a password that nobody has written down is replaced."""
    password = known.get("password") or secrets.token_urlsafe(12)
    person = Client.objects.by_email(email)
    if person is None:
        is_operator = name == "operator"
        rights = {"is_staff": is_operator, "is_superuser": is_operator}
        return accounts.create(username=name, email=email, password=password, **rights), password
    if not known:
        person.set_password(password)
        person.save(update_fields=["password"])
    return person, password


def _key(person: Client, known: dict[str, str], *, now: datetime) -> dict[str, str]:
    try:
        identify(f"Bearer {known.get('api_key', '')}", now=now)
    except Unauthenticated:
        made = keys.create(person, name="local marketplace")
        return {"api_key": made.key, "secret": made.secret}
    return {"api_key": known["api_key"], "secret": known["secret"]}


def _approve_provider(*, now: datetime) -> None:
    person = Client.objects.get(email="provider@localhost")
    if person.provider_status == "none":
        providers.approve(
            providers.ask(person, now=now), by=Client.objects.get(email="operator@localhost"), now=now
        )


def _open_for_business() -> None:
    """A fee, what a node costs whose owner says nothing else, and credit for the consumer; once."""
    operator = Client.objects.get(email="operator@localhost")
    if terms.current().pk is None:
        terms.change(
            by=operator,
            reason="The first terms of a local marketplace.",
            fee_bps=500,
            default_input_price=money.TOKEN,
            default_output_price=3 * money.TOKEN,
            default_hour_price=2 * money.TOKEN,
            default_training_price=5 * money.TOKEN,
        )
    ledger.grant(
        client_id=Client.objects.get(email="consumer@localhost").pk,
        amount=100 * money.TOKEN,
        reference="grant:local:consumer",
        reason="To try the local marketplace with.",
        by_id=operator.pk,
    )


if __name__ == "__main__":
    try:
        prepare(Path(sys.argv[1]), now=timezone.now())
    except OperationalError as error:
        sys.exit(f"The database cannot be used: {str(error).strip()}")
