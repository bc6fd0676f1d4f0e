"""What a wallet signs in the broker's API, in all generations of its clients.

Each is a keccak256 of 32 bytes, signed by `personal_sign` (EIP-191). The published clients drop leading zero bytes of
the hash before they sign, about once in 256 times, so that such a signature is taken too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from Crypto.Hash import keccak
from eth_keys.datatypes import PublicKey, Signature
from eth_keys.exceptions import BadSignature
from eth_keys.exceptions import ValidationError as WrongNumbers

from marketplace.errors import InvalidRequest, Unauthenticated

# How old a signature with a time may be, and how far its signer's clock may be ahead.
OLDEST_S, AHEAD_S = 300, 60
MOST_UINT256 = 2**256 - 1

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_SIGNATURE = re.compile(r"(0x)?[0-9a-fA-F]{130}")


class NotASignature(InvalidRequest):
    code = "invalid_signature"
    message = (
        "invalid signature: 0x and 130 hexadecimal digits are expected, with a v of 27 or 28 (or 0 or 1)."
    )


class NotSigned(Unauthenticated):
    """The signature is another wallet's, or of something else."""

    code = "signature_verification_failed"


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature that has been verified. `with_fee`: whether it covers the fee, as that of older clients does."""

    public_key: PublicKey
    with_fee: bool = True


def is_address(text: str) -> bool:
    return _ADDRESS.fullmatch(text) is not None


def hash_of(*parts: bytes) -> bytes:
    """keccak256 of the parts behind each other."""
    return keccak.new(digest_bits=256, data=b"".join(parts)).digest()


def task_hash(*, address: str, nonce: int, dataset_hash: str, fee: int | None) -> bytes:
    """What creates a task. `fee` None: as clients of 2026 sign it; the hash's text is covered as it was sent."""
    parts = [bytes.fromhex(address[2:]), nonce.to_bytes(32, "big"), dataset_hash.encode()]
    return hash_of(*parts, *([] if fee is None else [fee.to_bytes(32, "big")]))


def cancel_hash(task_id: UUID) -> bytes:
    return hash_of(task_id.bytes)


def download_hash(task_id: UUID, timestamp: int) -> bytes:
    """What asks for a task's result (…/lora)."""
    return hash_of(f"{task_id.hex}{timestamp}".encode())


def upload_hash(address: str, timestamp: int) -> bytes:
    """What brings a dataset; `address` in the spelling that was signed."""
    return hash_of(f"{address}{timestamp}".encode())


def reading_hash(address: str, timestamp: int) -> bytes:
    """What reads a wallet's tasks where not everybody may. Ours: the protocol leaves reading open."""
    return hash_of(f"read tasks of {address.lower()} at {timestamp}".encode())


def digest(inner: bytes) -> bytes:
    """EIP-191 over some bytes: what the key signs."""
    return hash_of(b"\x19Ethereum Signed Message:\n" + str(len(inner)).encode(), inner)


def check_task(signature: str, *, address: str, nonce: int, dataset_hash: str, fee: int) -> Signed:
    """Verify a new task's signature, with the fee or without. Raises NotASignature, NotSigned."""
    for covered in (fee, None):
        inner = task_hash(address=address, nonce=nonce, dataset_hash=dataset_hash, fee=covered)
        key = signer_key(signature, inner, address=address)
        if key is not None:
            return Signed(key, with_fee=covered is not None)
    raise NotSigned(
        "signature verification failed: it is not that of the wallet in userAddress over userAddress, nonce, "
        "datasetHash and fee (or, as newer clients sign, without fee). Sign what you send, with that wallet's key."
    )


def check(signature: str, inner: bytes, *, address: str, subject: str) -> Signed:
    """Verify that a wallet has signed a hash. Raises NotASignature, NotSigned."""
    key = signer_key(signature, inner, address=address)
    if key is None:
        raise NotSigned(f"signature verification failed: {subject} must be signed by the wallet {address}.")
    return Signed(key)


def check_time(timestamp: int, *, now: datetime) -> None:
    """Raise NotSigned where a signature's time is not about now."""
    age = now.timestamp() - timestamp
    if not -AHEAD_S <= age <= OLDEST_S:
        raise NotSigned(
            f"the timestamp is {abs(age):.0f} seconds {'old' if age > 0 else 'ahead'}: at most {OLDEST_S} seconds in "
            f"the past or {AHEAD_S} in the future are taken. Sign again, with the seconds since 1970."
        )


def signer_key(signature: str, inner: bytes, *, address: str) -> PublicKey | None:
    """The public key of a wallet that has signed these bytes; None where it has not. Raises NotASignature."""
    read = _read(signature)
    for signed in _as_signed(inner):
        try:
            key = read.recover_public_key_from_msg_hash(digest(signed))
        except (BadSignature, WrongNumbers):
            continue
        if key.to_address() == address.lower():
            return key
    return None


def _as_signed(inner: bytes) -> Iterator[bytes]:
    yield inner
    if inner.startswith(b"\0"):
        yield inner.lstrip(b"\0")


def _read(signature: str) -> Signature:
    if not _SIGNATURE.fullmatch(signature):
        raise NotASignature(param="signature")
    numbers = bytes.fromhex(signature.removeprefix("0x"))
    v = numbers[64] - 27 if numbers[64] >= 27 else numbers[64]
    try:
        return Signature(numbers[:64] + bytes([v]))
    except (BadSignature, WrongNumbers):
        raise NotASignature(param="signature") from None
