"""Checks a receipt anywhere: this one file and the package eth-account are all that it takes.

    document = read(open("receipt.json").read())     # what GET /inference/<id>/receipt answered
    verdict = verify(document, signer="0x…")         # what GET /receipts/key/ answered, best kept from earlier
    verdict = on_chain(document, rpc_url="https://…", contract="0x…")    # of the network's manifest: RECEIPTS

Whoever wants to check receipts without this file needs these five rules:

1. A receipt's text is its JSON in UTF-8 with sorted keys, without spaces, and with nothing escaped that need not be.
2. `signature` is made of this text by EIP-191 ("personal_sign") with the key of `signer`.
3. A leaf is keccak256(0x00 ‖ text); two nodes a, b have the parent keccak256(min(a, b) ‖ max(a, b)); a node without a
   partner rises as it is. OpenZeppelin's MerkleProof.verify(proof, root, leaf) checks such a proof in a contract.
4. `root_signature` is made of the root's 32 bytes by EIP-191, likewise.
5. The contract Receipts has the root of each batch that was published, `rootOf(uint256 batch) returns (bytes32)`, and
   never changes it; zero is what it answers for the others.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import reduce
from typing import Any
from urllib.request import Request, urlopen

from eth_account import Account
from eth_account.messages import SignableMessage, encode_defunct
from eth_hash.auto import keccak

VERSION = 1
SCHEME = "EIP-191"
LEAF = b"\0"
DECIMALS = 18
# A batch would need more leaves than there are atoms for a longer proof.
LONGEST_PROOF = 256
# Whoever reads what is nested deeper may come to the end of the stack.
MOST_BRACKETS = 2000

_AMOUNT = re.compile(r"(0|[1-9][0-9]{0,60})(?:\.([0-9]{0,17}[1-9]))?")
_HASH = re.compile(r"0x[0-9a-f]{64}")
_SIGNATURE = re.compile(r"0x[0-9a-fA-F]{130}")


class InvalidReceipt(ValueError):
    """The document proves nothing; `problems` says why, a sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__(" ".join(problems))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a document proves. `signer`: who has signed it. `batch`: where the receipt is sealed, None if not yet."""

    signer: str
    receipt: Mapping[str, Any]
    batch: int | None


class ChainAway(Exception):
    """The chain could not be asked; whether the root stands there is not known."""


class Publication(Enum):
    """Whether a receipt's batch stands on a chain."""

    NOT_SEALED = "the receipt is not sealed in a batch yet, so there is nothing on the chain to compare"
    NOT_PUBLISHED = "its batch is sealed, and not published on the chain yet"
    PUBLISHED = "the root of its batch stands on the chain"


# --- The rules ----------------------------------------------------------------------------------------------


def canonical(receipt: Mapping[str, Any]) -> str:
    """The text that is signed and hashed."""
    return json.dumps(receipt, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def leaf(text: bytes) -> bytes:
    """The leaf of a receipt's text: which is longer than the two hashes that a node is made of."""
    return keccak(LEAF + text)


def parent(one: bytes, two: bytes) -> bytes:
    """What stands above two nodes, in whichever order."""
    return keccak(one + two if one < two else two + one)


def root_of(bottom: bytes, proof: Iterable[bytes]) -> bytes:
    """The root that a proof leads to from a leaf."""
    return reduce(parent, proof, bottom)


def receipt_message(receipt: Mapping[str, Any]) -> SignableMessage:
    """What is signed of a receipt."""
    return encode_defunct(text=canonical(receipt))


def root_message(root: bytes) -> SignableMessage:
    """What is signed of a batch."""
    return encode_defunct(primitive=root)


# --- Checking -----------------------------------------------------------------------------------------------


def read(text: str) -> dict[str, Any]:
    """A document from its JSON. Raises InvalidReceipt for what can be read in more than one way."""

    def no_number(said: str) -> Any:
        raise InvalidReceipt([f"{said} stands where no receipt has such a number."])

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise InvalidReceipt(["A name stands twice in the same object."])
        return found

    if text.count("[") + text.count("{") > MOST_BRACKETS:
        raise InvalidReceipt(["This is not a receipt: it is far too deep."])
    try:
        found = json.loads(text, object_pairs_hook=once, parse_float=no_number, parse_constant=no_number)
    except (json.JSONDecodeError, RecursionError):
        raise InvalidReceipt(["This is not JSON."]) from None
    except InvalidReceipt:
        raise
    except ValueError:  # a number of thousands of digits
        raise InvalidReceipt(["It holds a number that no receipt has."]) from None
    if not isinstance(found, dict):
        raise InvalidReceipt(
            ["This is not the answer of GET /inference/<id>/receipt: that is a JSON object."]
        )
    return found


def verify(document: Mapping[str, Any], signer: str | None = None) -> Verdict:
    """What a document proves; with `signer`, only if that address has signed it. Raises InvalidReceipt.

    Without `signer` it is for the caller to compare `Verdict.signer` with the marketplace's address.
    """
    problems: list[str] = []
    try:
        receipt = _part(document, "receipt")
        found = _signer(receipt_message(receipt), _text(document, "signature"))
        problems += _check_signer(found, document, signer)
        problems += _check_form(receipt)
        problems += _check_amounts(receipt)
        batch = None
        if document["inclusion"] is not None:
            inclusion = _part(document, "inclusion")
            problems += _check_inclusion(receipt, inclusion, found)
            batch = _count(inclusion, "batch")
    except KeyError as error:
        raise InvalidReceipt([*problems, f"{error.args[0]} is missing."]) from None
    except _Malformed as error:
        raise InvalidReceipt([*problems, str(error)]) from None
    except (TypeError, ValueError, RecursionError):
        raise InvalidReceipt([*problems, "It holds something that no receipt holds."]) from None
    if problems:
        raise InvalidReceipt(problems)
    return Verdict(found, receipt, batch)


def on_chain(
    document: Mapping[str, Any], *, rpc_url: str, contract: str, timeout_s: float = 10
) -> Publication:
    """Whether the root of a verified document's batch stands on the chain that a node at `rpc_url` is one of.

    `contract` is the address of Receipts. Raises InvalidReceipt where the chain has another root for this batch, and
    ChainAway.
    """
    if document["inclusion"] is None:
        return Publication.NOT_SEALED
    inclusion = _part(document, "inclusion")
    batch, root = _count(inclusion, "batch"), _bytes(inclusion["root"])
    published = _root_of(batch, rpc_url, contract, timeout_s)
    if not any(published):
        return Publication.NOT_PUBLISHED
    if published != root:
        raise InvalidReceipt(
            [
                f"The chain has another root for batch {batch}: what was published there has no such receipt in it."
            ]
        )
    return Publication.PUBLISHED


def _root_of(batch: int, rpc_url: str, contract: str, timeout_s: float) -> bytes:
    if not rpc_url.startswith(("http://", "https://")) or not re.fullmatch("0x[0-9a-fA-F]{40}", contract):
        raise ChainAway(
            "The chain is named by a URL (http:// or https://) and the contract by its address (0x…)."
        )
    call = {"to": contract, "data": "0x" + keccak(b"rootOf(uint256)")[:4].hex() + f"{batch:064x}"}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [call, "latest"]}
    headers = {"Content-Type": "application/json", "User-Agent": "verification.py"}
    try:
        request = Request(rpc_url, json.dumps(asked).encode(), headers)  # noqa: S310 - checked above
        with urlopen(request, timeout=timeout_s) as answer:  # noqa: S310 - likewise
            said = json.loads(answer.read(65_536))
        found = bytes.fromhex(said["result"].removeprefix("0x"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        # Without the URL, which may hold a secret.
        raise ChainAway(f"The chain's node does not answer sensibly: {type(error).__name__}.") from None
    if len(found) != 32:
        raise ChainAway(f"There is no contract at {contract} that has roots of receipts.")
    return found


class _Malformed(Exception):
    pass


def _check_signer(found: str, document: Mapping[str, Any], wanted: str | None) -> Iterable[str]:
    if found.lower() != _text(document, "signer").lower():
        yield f"The signature is not that of {document['signer']}, which the document names: " + _NOT_SIGNED
    if wanted is not None and found.lower() != wanted.lower():
        yield f"The signature is not that of {wanted}: {_NOT_SIGNED}"


_NOT_SIGNED = "the receipt was changed, or somebody else has made it."


def _check_form(receipt: Mapping[str, Any]) -> Iterable[str]:
    if receipt["version"] != VERSION:
        raise _Malformed(f"This checks receipts of version {VERSION}; this one says {receipt['version']!r}.")
    if not _is_plain(receipt):
        yield "A receipt holds only texts, whole numbers, true, false and null."
    for name in ("request_sha256", "response_sha256"):
        if not re.fullmatch(r"[0-9a-f]{64}|", _text(receipt, name)):
            yield f"{name} is not a SHA-256."
    reference, number = _text(_part(receipt, "ledger"), "reference"), _count(receipt, "inference")
    if reference != f"inference:{number}":
        yield f"{reference} is not what the ledger calls request {number}."


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int))


def _check_amounts(receipt: Mapping[str, Any]) -> Iterable[str]:
    """Tokens times price is the cost; the cost is what was charged, unless it was capped; and that was shared out."""
    tokens, price, cost = _part(receipt, "tokens"), _part(receipt, "price"), _part(receipt, "cost")
    for name, rate in (("prompt", "input"), ("completion", "output")):
        if _amount(cost, name) != -(-_count(tokens, name) * _amount(price, rate) // 1_000_000):
            yield f"The cost of its {name} tokens is not their number times the price, rounded up."
    # A node that broke off has not fulfilled the request: only its tokens are paid.
    whole = receipt["status"] == "completed" or receipt["code"] == "consumer_left"
    if _amount(cost, "request") != (_amount(price, "request") if whole else 0):
        yield "The cost of the request itself is not its price" + (
            "." if whole else ", which is 0 if it broke off."
        )
    total, charged = _amount(cost, "total"), _amount(receipt, "charged")
    if total != sum(_amount(cost, name) for name in ("prompt", "completion", "request")):
        yield "The parts of the cost do not add up to its total."
    if charged > total or receipt["capped"] is not (charged < total):
        yield "What was charged is not the cost, and no cap explains it."
    share, fee = _amount(receipt, "provider_share"), _amount(receipt, "fee")
    if share + fee != charged:
        yield "The provider's share and the marketplace's fee do not add up to what was charged."
    if fee != charged * _count(_part(receipt, "terms"), "fee_bps") // 10_000:
        yield "The fee is not its share of what was charged."


def _check_inclusion(receipt: Mapping[str, Any], inclusion: Mapping[str, Any], signer: str) -> Iterable[str]:
    proof, root = inclusion["proof"], _bytes(inclusion["root"])
    if not isinstance(proof, list) or len(proof) > LONGEST_PROOF:
        raise _Malformed("The proof is not a list of hashes.")
    _count(inclusion, "index")
    if root_of(leaf(canonical(receipt).encode()), map(_bytes, proof)) != root:
        yield "The proof does not lead from this receipt to the root of its batch."
    if _signer(root_message(root), _text(inclusion, "root_signature")) != signer:
        yield "The root of the batch is not signed by whoever signed the receipt."


def _signer(message: SignableMessage, signature: str) -> str:
    if not _SIGNATURE.fullmatch(signature):
        raise _Malformed("A signature is 0x and 130 hexadecimal digits.")
    recover: Callable[..., str] = Account.recover_message
    try:
        return recover(message, signature=signature)
    except Exception:  # noqa: BLE001 - of several libraries, whatever cannot be a signature
        raise _Malformed("A signature is not one that anybody can have made.") from None


def _part(within: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if not isinstance(within[name], dict):
        raise _Malformed(f"{name} is not an object.")
    found: Mapping[str, Any] = within[name]
    return found


def _text(within: Mapping[str, Any], name: str) -> str:
    if not isinstance(within[name], str):
        raise _Malformed(f"{name} is not a text.")
    return str(within[name])


def _count(within: Mapping[str, Any], name: str) -> int:
    value = within[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _Malformed(f"{name} is not a whole number.")
    return value


def _amount(within: Mapping[str, Any], name: str) -> int:
    """Base units (10⁻¹⁸) of a decimal string that has no digit more than it needs."""
    match = _AMOUNT.fullmatch(_text(within, name))
    if match is None:
        raise _Malformed(f"{name} is not an amount.")
    return int(match[1]) * 10**DECIMALS + int((match[2] or "").ljust(DECIMALS, "0"))


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str) or not _HASH.fullmatch(text):
        raise _Malformed("A hash is 0x and 64 hexadecimal digits.")
    return bytes.fromhex(text[2:])


_USAGE = "usage: verification.py FILE [SIGNER] [--rpc URL --contract 0x…]"


def main(arguments: Sequence[str]) -> int:
    """`python verification.py FILE [SIGNER] [--rpc URL --contract 0x…]`; the exit status says whether it is valid.

    With a chain, also whether its batch is published there: status 3 where it is not (yet).
    """
    plain, options = _options(arguments)
    if not 1 <= len(plain) <= 2 or options is None:
        return _say(_USAGE, status=2)
    signer = plain[1] if len(plain) > 1 else None
    try:
        with open(plain[0], encoding="utf-8") as opened:
            document = read(opened.read())
        verdict = verify(document, signer)
        published = on_chain(document, rpc_url=options[0], contract=options[1]) if options else None
    except (OSError, UnicodeDecodeError) as error:
        return _say(f"{plain[0]} cannot be read: {error}", status=2)
    except ChainAway as error:
        return _say(str(error), status=2)
    except InvalidReceipt as error:
        return _say("\n  ".join(["This receipt proves nothing:", *error.problems]), status=1)
    whose = "whom you named" if signer else "compare this address with the marketplace's, GET /receipts/key/"
    said = f"valid, signed by {verdict.signer} ({whose})"
    if published is None:
        return _say(said, status=0)
    return _say(f"{said}; {published.value}", status=0 if published is Publication.PUBLISHED else 3)


def _options(arguments: Sequence[str]) -> tuple[list[str], tuple[()] | tuple[str, str] | None]:
    """What is no option, and the chain's URL and contract: () without, None where they are not both there."""
    plain, named = [], {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            plain.append(word)
        elif word in ("--rpc", "--contract") and rest:
            named[word] = rest.pop(0)
        else:
            return plain, None
    if not named:
        return plain, ()
    return plain, (named["--rpc"], named["--contract"]) if len(named) == 2 else None


def _say(text: str, *, status: int) -> int:
    (sys.stderr if status in (1, 2) else sys.stdout).write(f"{text}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
