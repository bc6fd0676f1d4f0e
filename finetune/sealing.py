"""A result as the broker's API delivers it: encrypted, so that only the wallet that ordered it can read it.

    signature[65] nonce[12] (ciphertext tag[16]) for every 64 MiB of a zip archive

AES-256-GCM; the nonce goes up by one with each part. The signature (r, s, and a v of 0 or 1) is the marketplace's over
keccak256 of all tags. The key goes to the wallet by ECIES (secp256k1, as eciespy and eciesjs have it): 129 bytes.
The same result sealed again is the same to the byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ecies
from Crypto.Cipher import AES
from eth_keys.datatypes import PublicKey

from finetune import signatures
from finetune.models import Job
from inference import packages, revisions, signing

PART = 64 * 1024 * 1024
Pieces = Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Sealed:
    """An encrypted file that is made while it is sent. `key` opens it."""

    size: int
    head: bytes
    key: bytes
    nonce: bytes
    plain: Pieces

    def pieces(self) -> Iterator[bytes]:
        yield self.head
        for piece, tag in _encrypted(self.plain, self.key, self.nonce):
            yield piece
            if tag is not None:
                yield tag

    def key_for(self, wallet: PublicKey) -> bytes:
        """The key, encrypted for a wallet."""
        return ecies.encrypt(wallet.to_bytes(), self.key)


def seal(job: Job) -> Sealed:
    """A succeeded job's result, sealed. Reads it once, for the signature comes before what it is of."""
    assert job.result is not None
    found = revisions.files_of(job.result)
    purpose = f"finetune.sealing:{job.uid}:{job.result.digest}"
    key, nonce = signing.secret(purpose), signing.secret(f"{purpose}:nonce")[:12]

    def plain() -> Iterator[bytes]:
        return packages.zip(found)

    size, tags = 0, b""
    for piece, tag in _encrypted(plain, key, nonce):
        size += len(piece)
        tags += tag or b""
    head = signing.sign_hash(signatures.hash_of(tags)) + nonce
    return Sealed(len(head) + size + len(tags), head, key, nonce, plain)


def _encrypted(plain: Pieces, key: bytes, nonce: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    """Ciphertext in pieces; with the last one of each part comes its tag."""
    cipher, left, count = _cipher(key, nonce, 0), PART, 0
    for piece in plain():
        while piece:
            now, piece = piece[:left], piece[left:]
            left -= len(now)
            yield cipher.encrypt(now), None
            if not left:
                yield b"", cipher.digest()
                count += 1
                cipher, left = _cipher(key, nonce, count), PART
    if left != PART:
        yield b"", cipher.digest()


def _cipher(key: bytes, nonce: bytes, number: int) -> Any:
    counted = (int.from_bytes(nonce, "big") + number) % 2**96
    return AES.new(key, AES.MODE_GCM, nonce=counted.to_bytes(12, "big"))
