"""One call, one transaction: many publishers of one key, nodes that fail half-way, transactions that do not move."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from chain.client import (
    ChainConfig,
    Source,
    TaskInfo,
    aio,
    deposit,
    get_source,
    publish_task,
    sending,
    vault_account,
)
from chain.client.errors import NodeUnreachable, ReceiptTimeout, Reverted, TransactionError, Uncertain
from chain.client.keylock import KeyLock
from chain.client.steps import Deadline
from tests.chain.client.conftest import COIN
from tests.chain.network import PROJECT, Network
from tests.chain.pinboard import Pinboard

Info = Callable[..., TaskInfo]
JSON = {"Content-Type": "application/json"}

PUBLISHER = """
import json, sys, time
from chain.client import ChainConfig, TaskInfo, TaskInput, publish_task
manifest, source, count = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ChainConfig.use(manifest)
for number in range(count):
    config = TaskInput("f", {"n": number})
    print(publish_task(TaskInfo(source, config, int(time.time()) + 3600, 10**15)), flush=True)
"""


def tasks_of(network: Network, source: str) -> list[str]:
    return list(network.contract("SOURCE", source).functions.getTasks(0, 10_000).call())


def nonces(network: Network) -> tuple[int, int]:
    """Of alice: what is mined, and what is known."""
    address = network.alice.address
    return tuple(int(network.rpc("eth_getTransactionCount", address, at), 16) for at in ("latest", "pending"))  # type: ignore[return-value]


def test_threads_and_processes_of_one_key_publish_side_by_side(
    source: str, deposited: int, task_info: Info, network: Network, pins: Pinboard
) -> None:
    manifest = json.dumps(network.manifest | {"file_url": pins.file_url})
    before = nonces(network)[0]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, manifest, source, "5"],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    with ThreadPoolExecutor(8) as threads:
        published = list(threads.map(lambda _: publish_task(task_info(source, payment=10**15)), range(40)))
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        published += output.split()

    assert len(published) == len(set(published)) == 55
    assert set(published) == set(tasks_of(network, source))
    assert nonces(network) == (before + 55, before + 55), "no gaps, and nothing else was sent"
    assert vault_account().frozen == 55 * 10**15


async def test_async_publishers_of_one_key_publish_side_by_side(
    source: str, deposited: int, task_info: Info, network: Network
) -> None:
    published = await asyncio.gather(*(aio.publish_task(task_info(source)) for _ in range(10)))

    assert set(published) == set(tasks_of(network, source))
    assert len(published) == 10


async def test_a_cancelled_publisher_lets_go_of_the_key(
    source: str, deposited: int, task_info: Info, network: Network, pins: Pinboard
) -> None:
    with network.held():
        waiting = asyncio.create_task(aio.publish_task(task_info(source)))
        await asyncio.to_thread(waiting_fee, network)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

        with KeyLock(network.chain_id, network.alice.address) as lock:
            assert lock._try()


def test_a_key_that_is_in_use_is_waited_for(
    source: str, deposited: int, task_info: Info, network: Network
) -> None:
    with KeyLock(network.chain_id, network.alice.address) as lock, ThreadPoolExecutor(1) as threads:
        assert lock._try()
        publication = threads.submit(publish_task, task_info(source))
        time.sleep(0.3)
        assert not publication.done()
        lock.__exit__()
        assert publication.result(timeout=10)


def test_a_key_of_another_machine_takes_nonces_too(
    source: str, deposited: int, task_info: Info, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a lock in common, a refused nonce is answered by the next one."""
    monkeypatch.setattr(KeyLock, "_try", lambda self: True)

    with ThreadPoolExecutor(6) as threads:
        published = list(threads.map(lambda _: publish_task(task_info(source)), range(18)))

    assert len(set(published)) == 18
    assert set(published) == set(tasks_of(network, source))


def test_a_stuck_transaction_gets_a_higher_fee(
    source: str, deposited: int, task_info: Info, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "BUMP_SECONDS", 0.4)
    with network.held(), ThreadPoolExecutor(1) as threads:
        publication = threads.submit(publish_task, task_info(source))
        first = waiting_fee(network)
        time.sleep(0.8)
        raised = waiting_fee(network)
        assert raised >= first * 1.1
        network.mine()
        task = publication.result(timeout=10)

    assert tasks_of(network, source) == [task]


def waiting_fee(network: Network) -> int:
    """What alice's waiting transaction offers, as soon as there is one."""
    deadline = time.monotonic() + 10
    while not (waiting := network.waiting(network.alice)):
        assert time.monotonic() < deadline, "nothing was sent"
        time.sleep(0.02)
    return int(waiting[0]["maxFeePerGas"], 16)


def test_a_transaction_that_is_not_mined_in_time_is_named(
    source: str, deposited: int, task_info: Info, network: Network
) -> None:
    with network.held():
        with pytest.raises(ReceiptTimeout) as caught:
            publish_task(task_info(source), receipt_timeout=0.3)
        assert caught.value.tx_hash == caught.value.tx_hashes[-1]
        assert caught.value.nonce == nonces(network)[0]
        network.mine()

    receipt = network.w3.eth.get_transaction_receipt(caught.value.tx_hash)  # type: ignore[arg-type]
    assert receipt["status"] == 1, "it was sent, and mined later"


def test_a_transaction_that_waits_for_others_says_so(
    source: str, deposited: int, task_info: Info, network: Network
) -> None:
    with network.held():
        network.submit(network.alice, network.bob.address, 1, gas=21_000)

        with pytest.raises(ReceiptTimeout, match="It waits for earlier ones"):
            publish_task(task_info(source), receipt_timeout=0.3)


def test_a_transaction_that_the_node_forgets_is_sent_again(
    source: str, deposited: int, task_info: Info, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "BUMP_SECONDS", 0.4)
    with network.held(), ThreadPoolExecutor(1) as threads:
        publication = threads.submit(publish_task, task_info(source))
        waiting_fee(network)
        network.rpc("anvil_dropAllTransactions")
        waiting_fee(network)
        network.mine()
        assert tasks_of(network, source) == [publication.result(timeout=10)]


def test_a_nonce_that_another_transaction_takes_is_replaced(
    source: str, deposited: int, task_info: Info, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "LOST_SECONDS", 0.3)
    with network.held(), ThreadPoolExecutor(1) as threads:
        publication = threads.submit(publish_task, task_info(source))
        waiting_fee(network)
        fees = {"maxFeePerGas": 10**12, "maxPriorityFeePerGas": 10**11}
        network.submit(network.alice, network.alice.address, nonce=nonces(network)[0], gas=21_000, **fees)
        network.mine()
        # The call takes the next nonce, and its transaction waits for a block.
        while not publication.done():
            time.sleep(0.1)
            network.mine()

    assert tasks_of(network, source) == [publication.result()]


class Middleman:
    """A node's front that breaks the connection `before` or `after` the node gets a transaction, so many times."""

    def __init__(self, url: str) -> None:
        self.target, self.breaks, self.when, self.mute = url, 0, "after", False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                sending_one = b"eth_sendRawTransaction" in body
                breaks = sending_one and outer.breaks > 0
                if breaks:
                    outer.breaks -= 1
                    if outer.when == "before":
                        self.close_connection = True
                        return
                answer = requests.post(outer.target, data=body, headers=JSON, timeout=30).content
                while outer.mute:
                    time.sleep(0.05)
                if breaks:
                    self.close_connection = True
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # Clients that have given up are part of the tests.
        self.server.handle_error = lambda *_arguments: None  # type: ignore[method-assign]
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def middleman(network: Network) -> Iterator[Middleman]:
    found = Middleman(network.url)
    ChainConfig.set_rpc(found.url)
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_that_breaks_while_sending_makes_one_task(
    source: str, deposited: int, task_info: Info, network: Network, middleman: Middleman, when: str
) -> None:
    middleman.breaks, middleman.when = 2, when

    task = publish_task(task_info(source))

    assert tasks_of(network, source) == [task]


def test_a_connection_that_breaks_each_time_after_the_node_got_it_makes_one_task(
    source: str, deposited: int, task_info: Info, network: Network, middleman: Middleman
) -> None:
    middleman.breaks = 100

    task = publish_task(task_info(source))

    assert tasks_of(network, source) == [task]


def test_where_it_cannot_be_known_whether_it_was_sent_the_error_says_so(
    source: str, deposited: int, task_info: Info, network: Network, middleman: Middleman
) -> None:
    middleman.breaks, middleman.when = 100, "before"

    with pytest.raises(Uncertain) as caught:
        publish_task(task_info(source))

    assert caught.value.tx_hash
    assert tasks_of(network, source) == []
    middleman.breaks = 0
    assert publish_task(task_info(source)), "and the key goes on"


def test_a_node_that_is_away_is_named_without_its_path(network: Network) -> None:
    ChainConfig.set_rpc("http://127.0.0.1:9/secret-key")

    with pytest.raises(NodeUnreachable, match=r"http://127\.0\.0\.1:9") as caught:
        deposit(5)

    assert "secret" not in str(caught.value)


def test_a_node_that_says_nonsense_is_told(network: Network, pins: Pinboard) -> None:
    ChainConfig.set_rpc(pins.file_url + "/nothing")
    pins.statuses = [500] * 20

    with pytest.raises(NodeUnreachable):
        deposit(5)


def test_a_transaction_that_fails_when_mined_says_why(
    source: str, deposited: int, task_info: Info, network: Network
) -> None:
    """Two calls that are each right alone: the Vault suffices for one."""
    with network.held(), ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(publish_task, task_info(source, payment=COIN * 3 // 4)) for _ in range(2)]
        # anvil's estimate sees what waits, and refuses the second before it is sent.
        while len(pending_nonces(network)) < 2 and not any(call.done() for call in calls):
            time.sleep(0.02)
        network.mine()
        outcomes = [call.exception(timeout=10) for call in calls]

    (failure,) = [outcome for outcome in outcomes if outcome is not None]
    assert isinstance(failure, Reverted)
    assert failure.reason == "InsufficientBalance"
    assert failure.tx_hash or network.is_anvil
    assert len(tasks_of(network, source)) == 1


def pending_nonces(network: Network) -> range:
    mined, known = nonces(network)
    return range(mined, known)


def test_waiting_for_a_key_keeps_the_deadline(network: Network) -> None:
    with KeyLock(1, network.alice.address) as first, KeyLock(1, network.alice.address) as second:
        assert first._try()
        steps = second.acquire(Deadline(0.05))
        with pytest.raises(Exception, match="others were sending"):
            while True:
                next(steps)
                time.sleep(0.02)


def test_the_lock_ends_with_its_process(network: Network, tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom chain.client.keylock import KeyLock\n"
        "lock = KeyLock(1, sys.argv[1]); assert lock._try(); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, network.alice.address], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with KeyLock(1, network.alice.address) as lock:
        assert not lock._try()
        process.kill()
        process.wait()
        process.stdout.close()
        assert lock._try()


def test_errors_of_transactions_are_one_family(source: str) -> None:
    assert issubclass(Reverted, TransactionError)
    assert isinstance(get_source(source), Source)


def test_a_node_that_falls_silent_after_sending_does_not_hold_the_caller(
    source: str, deposited: int, task_info: Info, network: Network, middleman: Middleman
) -> None:
    begun = time.monotonic()
    with network.held():
        publication = ThreadPoolExecutor(1).submit(publish_task, task_info(source), total_timeout=2.0)
        waiting_fee(network)
        middleman.mute = True
        error = publication.exception(timeout=20)
        middleman.mute = False

    assert isinstance(error, ReceiptTimeout)
    assert time.monotonic() - begun < 6
