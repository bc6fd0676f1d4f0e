"""A chain's node that is hostile or broken: its reader lives, says what is wrong, and writes nothing untrue."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from chain import indexer, networks, standing, tasks
from chain.ethereum import NodeAway
from chain.fulfilment import finding, rounds
from chain.models import Block, Deposit, Log, Network
from tests.chain import fake
from tests.chain.fake import FakeChain, address
from tests.chain.indexed import NOW, follow, network_of, nodes

pytestmark = pytest.mark.django_db

Change = Callable[[Any], Any]


class Twisted(FakeChain):
    """Its answers to one method are changed on the way."""

    method = ""

    def _answer(self, method: str, params: list[Any]) -> Any:
        found = super()._answer(method, params)
        return self.change(found) if method == self.method else found

    @staticmethod
    def change(answer: Any) -> Any:
        return answer


def with_(**values: Any) -> Change:
    def change(answer: Any) -> Any:
        if isinstance(answer, list):
            return [{**each, **values} for each in answer]
        return {**answer, **values} if answer else answer

    return change


TWISTS: list[tuple[str, Change]] = [
    *[("eth_chainId", lambda _, said=said: said) for said in ("x", "", None, 5, [], "-0x1")],
    *[
        ("eth_getBlockByNumber", with_(**{name: said}))
        for name in ("number", "hash", "parentHash", "timestamp")
        for said in (None, 5, [], "", "0x", "-0x1", "0x" + "f" * 70, "x")
    ],
    *[
        ("eth_getBlockByNumber", with_(logsBloom=said))
        for said in (5, [], "x", "-0x1", "0x-1", "0x" + "f" * 1280, "0x" + "f" * 512, {"a": 1})
    ],
    *[("eth_getBlockByNumber", lambda _, said=said: said) for said in (5, "x", [], True)],
    *[
        ("eth_getLogs", with_(**{name: said}))
        for name in ("logIndex", "transactionHash", "blockHash", "blockNumber", "data", "topics", "address")
        for said in (None, 5, [], "", "-0x1", "0x" + "f" * 70, "x", [5], [None])
    ],
    *[("eth_getLogs", lambda _, said=said: said) for said in (None, 5, "x", [5], [None], {"a": 1})],
    *[("eth_call", lambda _, said=said: said) for said in (None, 5, [], "x", "0x" + "f" * 1280, "0xff")],
]


@pytest.mark.parametrize(("method", "change"), TWISTS)
def test_whatever_it_answers_its_reader_lives_and_goes_on_when_it_is_mended(
    method: str, change: Change
) -> None:
    chain = Twisted()
    network = network_of(chain)
    indexer._paces.clear()
    chain.mine(fake.source_published(address(1), address(11)))
    chain.mine(fake.task_published(address(2), address(1)), fake.deposited(address(11), 5))
    with nodes(chain):
        chain.method, chain.change = method, change  # type: ignore[method-assign]
        follow(network)
        network.refresh_from_db()
        # Either it has read what makes sense of it, or it says why it has not.
        assert network.failure or network.cursor_block == 2
        if network.failure:
            assert network.failures == 1
            assert network.failing_since is not None
            assert network.next_poll_at > NOW
            chain.method = ""
            follow(network, after_s=120)
            network.refresh_from_db()
            assert (network.failure, network.cursor_block) == ("", 2)
            assert Deposit.objects.get().amount == 5
    assert not Block.objects.exclude(hash__startswith="0x").exists()
    assert not Log.objects.filter(block_number__gt=2).exists()


RECEIPT = {
    "blockNumber": "0x5", "blockHash": "0x" + "ab" * 32, "status": "0x1", "gasUsed": "0x5", "effectiveGasPrice": "0x7",
}  # fmt: skip
HEAD = {
    "number": "0x9", "hash": "0x" + "cd" * 32, "parentHash": "0x" + "ef" * 32, "timestamp": "0x1",
    "baseFeePerGas": "0x7",
}  # fmt: skip


class Says:
    def __init__(self, receipt: Any) -> None:
        self.receipt = receipt

    def ask(self, questions: Any) -> list[Any]:
        return ["0x1", HEAD, "0x5", "0x1", "0x1", "0x1", "0x1", self.receipt][: len(questions)]


def test_a_good_receipt_is_taken() -> None:
    found = standing.ask(Says(RECEIPT), address(1), ["0x1"], final_block=5)  # type: ignore[arg-type]
    assert found.receipts["0x1"].has_succeeded


@pytest.mark.parametrize(
    "receipt",
    [
        {**RECEIPT, "status": None},
        {name: value for name, value in RECEIPT.items() if name != "status"},
        {**RECEIPT, "blockNumber": "0x" + "f" * 20},
        {**RECEIPT, "blockHash": None},
        {**RECEIPT, "gasUsed": "-0x1"},
        "0xabc",
        [1],
        5,
    ],
)
def test_a_receipt_that_does_not_say_whether_it_succeeded_is_none(receipt: Any) -> None:
    """What is taken for refused frees its money: it would be paid a second time."""
    with pytest.raises(NodeAway):
        standing.ask(Says(receipt), address(1), ["0x1"], final_block=5)  # type: ignore[arg-type]


def test_what_is_odd_about_one_chain_does_not_stop_the_others() -> None:
    made = [network_of(FakeChain(fake.CHAIN_ID + number), name=f"chain-{number}") for number in range(3)]
    seen = []

    def advance(network: Network, *, now: Any) -> int:
        seen.append(network.name)
        if network.name == "chain-0":
            raise RuntimeError("odd")
        return 1

    with (
        mock.patch.object(networks, "followed", return_value=made),
        mock.patch.object(tasks.broadcast, "advance", advance),
        mock.patch.object(tasks.broadcast, "watch_balances"),
    ):
        assert tasks.send_transactions() == 2
    assert seen == ["chain-0", "chain-1", "chain-2"]


def test_what_is_odd_about_the_tasks_of_one_chain_does_not_stop_the_others() -> None:
    made = [network_of(FakeChain(fake.CHAIN_ID + number), name=f"chain-{number}") for number in range(2)]
    seen = []

    def discover(network: Network, *, now: Any) -> int:
        seen.append(network.name)
        raise RuntimeError("odd")

    hands = mock.Mock(free=0)
    with (
        mock.patch.object(networks, "followed", return_value=made),
        mock.patch.object(finding, "discover", discover),
    ):
        assert rounds.look(hands, clock=lambda: NOW) == 0
    assert seen == ["chain-0", "chain-1"]


def test_a_chain_that_was_begun_anew_takes_the_name_of_the_old_one() -> None:
    old = network_of(FakeChain(), name="local")
    manifest = networks.Manifest("local", fake.CHAIN_ID + 1, "http://127.0.0.1:1", fake.CONTRACTS)
    new = networks._row(manifest)
    old.refresh_from_db()
    assert (new.name, old.name) == ("local", f"local-{fake.CHAIN_ID}")
    assert networks._row(manifest).pk == new.pk
