"""Sending a transaction exactly once, whoever else uses the key, however the connection behaves.

A call is signed for one nonce, so at most one of its transactions can ever be mined: raising the fee keeps the nonce,
and a new nonce is taken only where the old one is certainly lost to somebody else's transaction.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from chain.client.errors import (
    InsufficientFunds,
    NodeRefused,
    NodeUnreachable,
    NonceConflict,
    ReceiptTimeout,
    TransactionFailed,
    Uncertain,
    reverted,
)
from chain.client.interface import interface, revert_reason
from chain.client.keylock import KeyLock
from chain.client.rpc import TIMEOUT, Answer, Request, ask, ask_once, ask_one
from chain.client.steps import Deadline, Pause, Steps
from chain.client.views import CHAIN_ID, Session, check_chain_id, refusal

RECEIPT_SECONDS = 120.0
# Gas beyond the estimate: what the call does may grow until it is mined.
GAS_MARGIN = 1.2
DEFAULT_TIP = 10**9
# Wei that the highest fee is raised by at random; it is a limit, and is not paid.
SALT = 2**24
# A transaction that is not mined by then gets a higher fee, by a quarter each time; nodes want 10 % at least.
BUMP_SECONDS = 30.0
BUMP = 1.25
FIRST_POLL, LONGEST_POLL = 0.02, 1.0
# So long a lost nonce must stay lost: a lagging node may know the count before it knows the receipt.
LOST_SECONDS = 3.0
ROUNDS = 8
SEND_TRIES = 4

TAKEN = (
    "nonce too low",
    "replacement transaction underpriced",
    "invalid nonce",
    "oldnonce",
    "nonce is too low",
)
KNOWN = ("already known", "known transaction", "already imported", "alreadyknown")


@dataclass(frozen=True)
class Call:
    """A function of a contract, to be sent; `value` in wei."""

    contract: str
    address: str
    function: str
    arguments: tuple[Any, ...] = ()
    value: int = 0

    @property
    def name(self) -> str:
        return f"{self.contract}.{self.function}"

    @property
    def data(self) -> str:
        return interface(self.contract).encode(self.function, *self.arguments)


@dataclass(frozen=True)
class Receipt:
    """A transaction that was mined and succeeded."""

    tx_hash: str
    block: int
    gas_used: int
    logs: list[dict[str, Any]] = field(repr=False)


@dataclass(frozen=True)
class Fees:
    """Wei for a unit of gas: at most, and for the block's maker."""

    highest: int
    tip: int

    def raised(self, current: "Fees") -> "Fees":
        """Enough to replace a transaction, and not below what others pay now."""
        highest, tip = (int(fee * BUMP) + 1 for fee in (self.highest, self.tip))
        return Fees(max(highest, current.highest), max(tip, current.tip))


@dataclass(frozen=True)
class Quote:
    gas: int
    fees: Fees


@dataclass
class Sent:
    """One nonce, and every transaction that was sent for it."""

    nonce: int
    quote: Quote
    raw: str
    hashes: list[str]


def transact(
    session: Session,
    call: Call,
    *,
    receipt_timeout: float = RECEIPT_SECONDS,
    before_send: Callable[[], None] | None = None,
) -> Steps[Receipt]:
    """Send the call and wait until it is mined.

    `before_send` is called just before each signature, and may raise.
    Raises `Reverted` before gas is paid where the contract refuses, and the errors of `TransactionError`.
    """
    quote = yield from _quote(session, call)
    for _ in range(ROUNDS):
        sent = yield from _send(session, call, quote, before_send)
        mined = yield from _mined(session, call, sent, receipt_timeout)
        if mined is not None:
            return (yield from _outcome(session, call, sent, mined))
    raise NonceConflict(
        f"Others took the nonce of {session.signer.address} {ROUNDS} times; nothing was done."
    )


def _quote(session: Session, call: Call) -> Steps[Quote]:
    """Gas and fees, in one round trip that also finds out whether the contract would refuse."""
    sender = session.signer.address
    transaction = {"from": sender, "to": call.address, "data": call.data, "value": hex(call.value)}
    requests = [
        CHAIN_ID,
        Request("eth_estimateGas", (transaction,)),
        Request("eth_getBalance", (sender, "latest")),
        *_FEES,
    ]
    chain_id, gas, balance, *fees = yield from ask(
        session.network.rpc_url, requests, deadline=session.deadline
    )
    check_chain_id(session.network, chain_id)
    if isinstance(gas, NodeRefused):
        raise _poor(gas, sender) or refusal(gas, doing=call.name)
    found = _fees(fees)
    # Two equal calls must not become one transaction, which the node would call "already known" to the second.
    unique = Fees(found.highest + secrets.randbelow(SALT), found.tip)
    quote = Quote(int(int(gas, 16) * GAS_MARGIN), unique)
    cost = quote.gas * quote.fees.highest + call.value
    if not isinstance(balance, NodeRefused) and int(balance, 16) < cost:
        raise InsufficientFunds(
            f"{call.name}: the wallet {sender} has {int(balance, 16)} wei, and gas and value may cost {cost}."
        )
    return quote


_FEES = (Request("eth_maxPriorityFeePerGas"), Request("eth_getBlockByNumber", ("latest", False)))


def _fees(answers: list[Answer]) -> Fees:
    tip, block = answers
    if isinstance(block, NodeRefused) or not block:
        raise block if isinstance(block, NodeRefused) else NodeUnreachable("The node knows no newest block.")
    # Not every node has an opinion on tips.
    tip = DEFAULT_TIP if isinstance(tip, NodeRefused) else int(tip, 16)
    return Fees(highest=2 * int(block.get("baseFeePerGas", "0x0"), 16) + tip, tip=tip)


def _send(session: Session, call: Call, quote: Quote, before_send: Callable[[], None] | None) -> Steps[Sent]:
    """Under the key's lock: the next nonce, the signature, and the node's word that it has it."""
    url, sender = session.network.rpc_url, session.signer.address
    with KeyLock(session.network.chain_id, sender) as lock:
        yield from lock.acquire(session.deadline)
        for attempt in range(ROUNDS):
            count = Request("eth_getTransactionCount", (sender, "pending"))
            nonce = int((yield from ask_one(url, count, deadline=session.deadline)), 16)
            if before_send is not None:
                before_send()
            session.deadline.within(1, "before the transaction was sent")
            sent = _signed(session, call, quote, nonce)
            if (yield from _submitted(session, sent)):
                return sent
            # Somebody on another machine was quicker with this nonce.
            yield Pause(FIRST_POLL * 2**attempt)
    raise NonceConflict(f"The nonces of {sender} are taken by others again and again; nothing was sent.")


def _signed(session: Session, call: Call, quote: Quote, nonce: int) -> Sent:
    transaction: dict[str, Any] = {
        "type": 2,
        "chainId": session.network.chain_id,
        "nonce": nonce,
        "to": call.address,
        "value": call.value,
        "data": call.data,
        "gas": quote.gas,
        "maxFeePerGas": quote.fees.highest,
        "maxPriorityFeePerGas": quote.fees.tip,
    }
    signed = session.signer.sign_transaction(transaction)
    return Sent(nonce, quote, "0x" + signed.raw_transaction.hex(), ["0x" + signed.hash.hex()])


def _submitted(session: Session, sent: Sent) -> Steps[bool]:
    """Whether the node has it; False where it certainly never will, because the nonce is somebody else's."""
    url, uncertain = session.network.rpc_url, False
    for attempt in range(SEND_TRIES):
        if uncertain and session.deadline.left() <= 0:
            break
        try:
            request = Request("eth_sendRawTransaction", (sent.raw,))
            yield from ask_once(url, request, timeout=session.deadline.around(TIMEOUT))
        except NodeUnreachable:
            # It may have arrived. The same bytes again do no harm.
            uncertain = True
            yield Pause(0.25 * 2**attempt)
            continue
        except NodeRefused as refused:
            message = refused.message.lower()
            if _any(KNOWN, message):
                return True
            if _any(TAKEN, message):
                # After an uncertain try the taker may be this very transaction: waiting for the receipt will tell.
                return uncertain
            if not uncertain:
                raise _poor(refused, session.signer.address) or refused from None
            break
        return True
    if (yield from _known(session, sent)):
        return True
    raise Uncertain(
        f"The connection broke while {sent.hashes[0]} was sent: it may be mined. Look it up before repeating the call.",
        sent.hashes[0],
    )


def _known(session: Session, sent: Sent) -> Steps[bool]:
    request = Request("eth_getTransactionByHash", (sent.hashes[0],))
    timeout = session.deadline.around(TIMEOUT)
    try:
        (found,) = yield from ask(
            session.network.rpc_url, [request], deadline=Deadline(None), timeout=timeout, tries=1
        )
    except NodeUnreachable:
        return False
    return isinstance(found, dict)


def _mined(session: Session, call: Call, sent: Sent, seconds: float) -> Steps[dict[str, Any] | None]:
    """The receipt; None where the nonce went to somebody else's transaction. Raises the fee of one that is stuck."""
    begun = time.monotonic()
    end = begun + min(seconds, max(0.0, session.deadline.left()))
    bump_at, lost_since, poll = begun + BUMP_SECONDS, None, FIRST_POLL
    while True:
        receipt, count = yield from _look(session, sent, end - time.monotonic())
        if receipt is not None:
            return receipt
        now = time.monotonic()
        lost_since = (lost_since or now) if count is not None and count > sent.nonce else None
        if lost_since is not None and now - lost_since >= LOST_SECONDS:
            return None
        if now >= end:
            raise ReceiptTimeout(sent.hashes, sent.nonce, now - begun, count)
        if now >= bump_at:
            yield from _push(session, call, sent, is_next=count == sent.nonce)
            bump_at = now + BUMP_SECONDS
        yield Pause(max(0.0, min(poll, end - now)))
        poll = min(LONGEST_POLL, poll * 1.5)


def _look(session: Session, sent: Sent, left: float) -> Steps[tuple[dict[str, Any] | None, int | None]]:
    """The receipt, and how many transactions of the key are mined; neither where the node is away just now."""
    requests = [Request("eth_getTransactionReceipt", (tx_hash,)) for tx_hash in sent.hashes]
    requests.append(Request("eth_getTransactionCount", (session.signer.address, "latest")))
    try:
        *receipts, count = yield from ask(
            session.network.rpc_url,
            requests,
            deadline=Deadline(None),
            timeout=Deadline(left).around(TIMEOUT),
            tries=1,
        )
    except NodeUnreachable:
        return None, None
    found = next(
        (answer for answer in receipts if isinstance(answer, dict) and answer.get("blockNumber")), None
    )
    return found, None if isinstance(count, NodeRefused) else int(count, 16)


def _push(session: Session, call: Call, sent: Sent, *, is_next: bool) -> Steps[None]:
    """The last one once more, in case the node has forgotten it; and for a higher fee, unless it waits for others."""
    url = session.network.rpc_url
    try:
        yield from _again(url, sent.raw)
        if not is_next:
            return
        current = _fees((yield from ask(url, _FEES, deadline=Deadline(None))))
        quote = Quote(sent.quote.gas, sent.quote.fees.raised(current))
        raised = _signed(session, call, quote, sent.nonce)
        if (yield from _again(url, raised.raw)):
            sent.quote, sent.raw = quote, raised.raw
            sent.hashes.append(raised.hashes[0])
    except (NodeUnreachable, NodeRefused):
        # Whatever was sent before still stands, and the wait goes on.
        return


def _again(url: str, raw: str) -> Steps[bool]:
    """Whether the node took it; where the connection broke it counts as taken, since it may have been."""
    try:
        yield from ask_once(url, Request("eth_sendRawTransaction", (raw,)))
    except NodeUnreachable:
        return True
    except NodeRefused as refused:
        return _any(KNOWN, refused.message.lower())
    return True


def _outcome(session: Session, call: Call, sent: Sent, mined: dict[str, Any]) -> Steps[Receipt]:
    tx_hash = str(mined["transactionHash"])
    if int(mined.get("status", "0x1"), 16) == 1:
        return Receipt(tx_hash, int(mined["blockNumber"], 16), int(mined["gasUsed"], 16), mined["logs"])
    if int(mined["gasUsed"], 16) >= sent.quote.gas:
        raise TransactionFailed(f"{call.name}: the gas ran out in {tx_hash}.", tx_hash)
    transaction = {
        "from": session.signer.address,
        "to": call.address,
        "data": call.data,
        "value": hex(call.value),
    }
    replay = Request("eth_call", (transaction, mined["blockNumber"]))
    (answer,) = yield from ask(session.network.rpc_url, [replay], deadline=Deadline(None))
    if isinstance(answer, NodeRefused):
        raise reverted(revert_reason(answer.message, answer.data), doing=call.name, tx_hash=tx_hash)
    raise TransactionFailed(f"{call.name}: {tx_hash} was mined, and failed.", tx_hash)


def _poor(refused: NodeRefused, sender: str) -> InsufficientFunds | None:
    if "insufficient funds" not in refused.message.lower():
        return None
    return InsufficientFunds(f"The wallet {sender} cannot pay gas and value: {refused.message}")


def _any(texts: tuple[str, ...], message: str) -> bool:
    return any(text in message for text in texts)
