"""The ledger compared with the chain, at one final block: every difference is explained line by line, or stands out.

Both sides are counted up to that block: the chain's state is asked for as it was there, and of our rows only those
count that tell of it or of what was before.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from eth_abi.abi import decode
from eth_utils import function_signature_to_4byte_selector

from chain import acknowledgements, ethereum, networks, treasury_lines, vault_lines
from chain.ethereum import Ethereum, Fault, NodeAway, Refused
from chain.lines import Line, Question
from chain.models import Network, Reconciliation
from clients.models import Client
from marketplace.errors import Conflict

logger = logging.getLogger(__name__)

# Of each network so many are kept: a day's, one in ten minutes, and those that did not agree.
KEPT = 144
PARTS = (treasury_lines, vault_lines)


class NothingRead(Conflict):
    code, message = "nothing_read", "Nothing final was read of this chain yet."


def run_all(*, now: datetime) -> int:
    """Compare with every followed network; how many do not agree."""
    wrong = 0
    for network in networks.followed():
        if network.is_paused or network.failing_since is not None or network.final_block < 0:
            continue
        try:
            wrong += not run(network, now=now).is_balanced
        except (NodeAway, Refused) as away:
            logger.warning("%s cannot be compared with the ledger: %s", network, away.message)
    return wrong


def run(network: Network, *, now: datetime, by: Client | None = None) -> Reconciliation:
    """Compare, and write down what came out. Not within a transaction: it asks the chain.

    Raises NothingRead, NodeAway.
    """
    block, lines = _compared(network)
    if not all(line.is_right for line in lines):
        # Rows that have changed while we looked may have made it so.
        block, lines = _compared(network)
    unexplained = max((line.unexplained for line in lines), key=abs, default=0)
    found = Reconciliation.objects.create(
        network=network,
        at=now,
        block_number=block,
        lines=[line.as_json() for line in lines],
        unexplained=unexplained,
        is_balanced=all(line.is_right for line in lines),
        by=by,
    )
    _report(network, lines)
    _forget_old(network)
    return found


def _compared(network: Network) -> tuple[int, list[Line]]:
    """The newest final block, and the lines as of there."""
    network.refresh_from_db()
    block = network.final_block
    if block < 0:
        raise NothingRead()
    questions = [question for part in PARTS for question in part.questions(network)]
    said = _state(ethereum.of(network), network, questions, block)
    lines = [line for part in PARTS for line in part.lines(network, block, said)]
    told = acknowledgements.acknowledged(network)
    return block, [replace(line, explained=[*line.explained, *told.get(line.name, [])]) for line in lines]


def _report(network: Network, lines: Sequence[Line]) -> None:
    for line in lines:
        if not line.is_right:
            wrong = "; ".join(line.wrong)
            logger.error("%s: %s: %s unexplained. %s", network, line.name, line.unexplained, wrong)


def _forget_old(network: Network) -> None:
    mine = Reconciliation.objects.filter(network=network)
    kept = list(mine.order_by("-pk").values_list("pk", flat=True)[:KEPT])
    mine.filter(is_balanced=True, by=None).exclude(pk__in=kept).delete()


# --- The chain's side ---------------------------------------------------------------------------------------


def _state(
    node: Ethereum, network: Network, questions: Sequence[Question], block: int
) -> Mapping[Question, int]:
    """The answers as of a block; of the newest one, where the node keeps no older state and nothing has moved since."""
    if not questions:
        return {}
    said = node.ask([_asked(question, hex(block)) for question in questions])
    if any(isinstance(each, Fault) for each in said):
        said = _newest(node, network, questions, block)
    return {question: _number(answer) for question, answer in zip(questions, said, strict=True)}


def _newest(node: Ethereum, network: Network, questions: Sequence[Question], block: int) -> list[Any]:
    asked = [_asked(question, "latest") for question in questions]
    head, *said, after = node.ask([("eth_blockNumber", []), *asked, ("eth_blockNumber", [])])
    fault = next((each for each in (head, *said, after) if isinstance(each, Fault)), None)
    if fault is not None:
        raise NodeAway(f"The chain's node does not tell what there is: {fault.message}")
    addresses = [network.address(name) for name in ("TREASURY", "VAULT") if network.address(name)]
    moved = head != after
    if not moved and int(head, 16) > block:
        moved = bool(node.logs(from_block=block + 1, to_block=int(head, 16), addresses=addresses))
    if moved:
        raise NodeAway(
            "The chain's node keeps no state of older blocks, and money moves. It is compared later."
        )
    return said


def _asked(question: Question, block: str) -> tuple[str, list[Any]]:
    if not question.function:
        return "eth_getBalance", [question.address, block]
    data = function_signature_to_4byte_selector(question.function).hex()
    if question.argument:
        data += question.argument.removeprefix("0x").lower().rjust(64, "0")
    return "eth_call", [{"to": question.address, "data": "0x" + data}, block]


def _number(answer: Any) -> int:
    try:
        value = bytes.fromhex(str(answer).removeprefix("0x").rjust(64, "0"))
        return int(decode(["uint256"], value)[0])
    except ValueError:
        raise NodeAway("The chain's node does not answer sensibly.") from None
