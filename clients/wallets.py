"""Wallets: Ethereum addresses that an account has shown to be its own, by signing a message (EIP-4361, EIP-191).

The message is ours, and good once: what comes back must be the very same text, so that there is nothing to parse. The
wallet of a contract (EIP-1271) cannot sign it; that takes a node of the chain to check.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import redis
from django.conf import settings
from django.core.cache import cache
from django.db import transaction
from django.db.models import QuerySet
from eth_account import Account as Signer
from eth_account.messages import encode_defunct
from eth_keys.exceptions import BadSignature
from eth_utils import ValidationError, to_checksum_address

from clients.models import Client, Wallet
from marketplace.errors import Conflict, InvalidRequest, NotFound, Unavailable

CHALLENGE_LIFE = timedelta(minutes=10)
MAX_WALLETS = 20

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_SIGNATURE = re.compile(r"(0x)?[0-9a-fA-F]{130}")
_STATABLE = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;= ]")
_NONCE = re.compile(r"^Nonce: ([0-9a-f]{32})$", re.MULTILINE)


class NotAnAddress(InvalidRequest):
    code, message = "invalid_address", "This is not an Ethereum address: 0x and 40 hexadecimal digits."


class UnknownChallenge(InvalidRequest):
    code = "unknown_challenge"
    message = (
        "This message is not one that we gave you, or it has expired or was used before. "
        "Get a new one from /client/wallets/challenge/ and send it back as it is."
    )


class WrongSignature(InvalidRequest):
    code, message = "wrong_signature", "The message was not signed by the wallet that it names."


class WalletTaken(Conflict):
    code, message = "wallet_taken", "This wallet is linked to another account. Unlink it there first."


class TooManyWallets(Conflict):
    code, message = "too_many_wallets", f"An account can link {MAX_WALLETS} wallets."


class UnknownWallet(NotFound):
    code, message = "unknown_wallet", "You have no such wallet."


class NoChallenges(Unavailable):
    code, message = "cache_unavailable", "Wallets cannot be linked at the moment. Try again."


def of(client: Client) -> QuerySet[Wallet]:
    return Wallet.objects.filter(client=client)


def challenge(client: Client, *, address: str, chain_id: int, now: datetime) -> str:
    """The message that the owner of `address` is to sign (`personal_sign`) within CHALLENGE_LIFE.

    Raises NotAnAddress.
    """
    if not _ADDRESS.fullmatch(address):
        raise NotAnAddress(param="address")
    nonce = secrets.token_hex(16)
    place = urlsplit(settings.PUBLIC_URL)
    message = _MESSAGE.format(
        domain=place.netloc,
        address=to_checksum_address(address),
        name=_stated(settings.MARKETPLACE_NAME) or place.netloc,
        account=client.pk,
        uri=settings.PUBLIC_URL,
        chain_id=chain_id,
        nonce=nonce,
        issued_at=_timestamp(now),
        expires_at=_timestamp(now + CHALLENGE_LIFE),
    )
    try:
        cache.set(_place(nonce), (client.pk, address.lower(), message), CHALLENGE_LIFE.total_seconds())
    except redis.RedisError:
        raise NoChallenges(retry_after=2) from None
    return message


def link(client: Client, *, message: str, signature: str) -> Wallet:
    """Link the wallet that has signed a message of `challenge`. Linking one's own again changes nothing.

    Raises UnknownChallenge, WrongSignature, WalletTaken, TooManyWallets.
    """
    address = _redeem(client, message)
    if _signer(message, signature) != address:
        raise WrongSignature(param="signature")
    with transaction.atomic():
        # One at a time for each account, so that two cannot both be the last.
        Client.objects.select_for_update(no_key=True).get(pk=client.pk)
        if of(client).exclude(address=address).count() >= MAX_WALLETS:
            raise TooManyWallets()
        wallet, _ = Wallet.objects.get_or_create(address=address, defaults={"client": client})
    if wallet.client_id != client.pk:
        raise WalletTaken()
    return wallet


def unlink(client: Client, *, wallet_id: int) -> None:
    """Raises UnknownWallet, also for somebody else's."""
    if not of(client).filter(pk=wallet_id).delete()[0]:
        raise UnknownWallet()


_MESSAGE = """\
{domain} wants you to sign in with your Ethereum account:
{address}

Link this wallet to account {account} of {name}. This costs nothing and moves no money.

URI: {uri}
Version: 1
Chain ID: {chain_id}
Nonce: {nonce}
Issued At: {issued_at}
Expiration Time: {expires_at}"""


def _redeem(client: Client, message: str) -> str:
    """The address of a message that we gave this client; nobody can redeem it again."""
    nonce = _NONCE.search(message)
    if nonce is None:
        raise UnknownChallenge(param="message")
    place = _place(nonce[1])
    try:
        owner, address, given = cache.get(place) or (None, "", "")
        # Of two at the same moment, one deletes it.
        if (owner, given) != (client.pk, message) or not cache.delete(place):
            raise UnknownChallenge(param="message")
    except redis.RedisError:
        raise NoChallenges(retry_after=2) from None
    return str(address)


def _signer(message: str, signature: str) -> str:
    if not _SIGNATURE.fullmatch(signature):
        raise WrongSignature("A signature is 0x and 130 hexadecimal digits.", param="signature")
    try:
        signed = Signer.recover_message(
            encode_defunct(text=message), signature=bytes.fromhex(signature.removeprefix("0x"))
        )
    except (BadSignature, ValidationError, ValueError):
        raise WrongSignature(param="signature") from None
    return str(signed).lower()


def _stated(name: str) -> str:
    """What a statement may hold of a name (EIP-4361 takes it from RFC 3986): wallets refuse to parse anything else."""
    plain = [each for each in unicodedata.normalize("NFKD", name) if not unicodedata.combining(each)]
    return " ".join("".join(each if _STATABLE.fullmatch(each) else " " for each in plain).split())


def _place(nonce: str) -> str:
    return f"wallet-challenge:{nonce}"


def _timestamp(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
