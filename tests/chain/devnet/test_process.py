"""The process: what it keeps over restarts, what it refuses, and that nobody holds it up."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from chain.devnet.chain import Chain
from chain.devnet.server import MOST_BYTES
from tests.chain import network
from tests.chain.network import PROJECT, Network


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Network]:
    found = network.start_devnet(tmp_path)
    yield found
    found.stop()


def restarted(found: Network, folder: Path, *options: str) -> Network:
    found.stop()
    return network.start_devnet(folder, *options)


def post(url: str, body: bytes | Any) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return requests.post(url, data=content, timeout=10).json()


def test_blocks_are_the_same_after_kill_9(chain: Network, tmp_path: Path) -> None:
    receipts = [chain.send(chain.alice, chain.bob.address, 1, gas=21_000) for _ in range(20)]
    head = chain.rpc("eth_getBlockByNumber", "latest", True)

    again = restarted(chain, tmp_path)

    try:
        assert again.rpc("eth_getBlockByNumber", "latest", True) == head
        for receipt in receipts:
            found = again.w3.eth.get_transaction_receipt(receipt["transactionHash"])
            assert found == receipt
        assert again.send(again.alice, again.bob.address, 1, gas=21_000)["blockNumber"] == 21
    finally:
        again.stop()


def test_what_waits_and_the_clock_outlive_kill_9(chain: Network, tmp_path: Path) -> None:
    chain.rpc("evm_setAutomine", False)
    held = chain.submit(chain.alice, chain.bob.address, 1, gas=21_000)
    chain.rpc("evm_increaseTime", 500)
    snapshot = chain.snapshot()

    again = restarted(chain, tmp_path)

    try:
        assert len(again.waiting(again.alice)) == 1
        again.rpc("evm_setAutomine", True)
        assert again.w3.eth.get_transaction_receipt(held)["status"] == 1
        assert again.w3.eth.get_block("latest")["timestamp"] >= time.time() + 490
        again.revert(snapshot)
        assert again.head() == 0
    finally:
        again.stop()


def test_killed_in_the_middle_it_has_whole_blocks(chain: Network, tmp_path: Path) -> None:
    """Somebody sends all the time; the process is killed; the chain it comes back with is whole."""
    answered: list[Any] = []

    def send() -> None:
        try:
            for number in range(10_000):
                sent = chain.submit(chain.alice, chain.bob.address, 1, gas=21_000, nonce=number)
                answered.append(sent)
        except requests.RequestException:
            return

    sender = threading.Thread(target=send)
    sender.start()
    time.sleep(0.7)
    again = restarted(chain, tmp_path)
    sender.join()

    try:
        assert answered
        for sent in answered:
            assert again.w3.eth.get_transaction_receipt(sent)["status"] == 1
        count = again.w3.eth.get_transaction_count(again.alice.address)  # type: ignore[arg-type]
        assert count == again.head() >= len(answered)
    finally:
        again.stop()


def test_a_long_chain_is_up_soon_and_quick_to_search(chain: Network, tmp_path: Path) -> None:
    chain.rpc("anvil_mine", 1000)

    begun = time.monotonic()
    again = restarted(chain, tmp_path)
    up = time.monotonic() - begun

    try:
        assert again.head() == 1000
        begun = time.monotonic()
        assert again.rpc("eth_getLogs", {"fromBlock": "0x0"}) == []
        assert time.monotonic() - begun < 0.2
        assert up < 5, "about one second on a quiet machine"
    finally:
        again.stop()


def test_one_folder_has_one_process(chain: Network, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chain.devnet", "--port", "0", "--home", str(tmp_path)]
    second = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=30, check=False)

    assert second.returncode == 1
    assert "Another process" in second.stdout


def test_a_folder_keeps_its_chain_id(chain: Network, tmp_path: Path) -> None:
    chain.stop()
    command = [
        sys.executable,
        "-m",
        "chain.devnet",
        "--port",
        "0",
        "--home",
        str(tmp_path),
        "--chain-id",
        "5",
    ]
    second = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=30, check=False)

    assert second.returncode == 1
    assert "131277322940537" in second.stdout


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.com"])
def test_others_are_let_in_only_if_that_is_asked_for(tmp_path: Path, host: str) -> None:
    command = [sys.executable, "-m", "chain.devnet", "--host", host, "--port", "0", "--home", str(tmp_path)]
    found = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=30, check=False)

    assert found.returncode == 2
    assert "--allow-remote" in found.stdout


def test_the_accounts_are_shown_on_request() -> None:
    command = [sys.executable, "-m", "chain.devnet", "accounts"]
    found = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=30, check=True)

    assert found.stdout.splitlines()[1].startswith("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266 0xac0974")


def test_requests_that_are_none_get_their_codes(chain: Network) -> None:
    assert post(chain.url, b"{bad")["error"]["code"] == -32700
    assert post(chain.url, b"\xff\xfe")["error"]["code"] == -32700
    for deep in (b"[" * 1_000_000, b'{"a":[' * 500_000):
        assert post(chain.url, deep)["error"]["code"] == -32700
    assert post(chain.url, [])["error"]["code"] == -32600
    assert post(chain.url, 5)["error"]["code"] == -32600
    assert post(chain.url, {"id": 1, "method": "eth_moon"})["error"]["code"] == -32601
    assert post(chain.url, {"id": 1, "method": "eth_getBalance"})["error"]["code"] == -32602
    assert post(chain.url, {"id": 1, "method": "eth_chainId", "params": {"a": 1}})["error"]["code"] == -32600
    for params in ([5], ["0x12"], [None], ["0x" + "00" * 20, "moon"], [["0x"]]):
        assert (
            post(chain.url, {"id": 1, "method": "eth_getBalance", "params": params})["error"]["code"]
            == -32602
        )


def test_a_batch_is_answered_one_by_one(chain: Network) -> None:
    batch = [
        {"id": 1, "method": "eth_chainId"},
        5,
        {"id": "x", "method": "eth_moon"},
        {"method": "eth_chainId"},
    ]

    first, second, third = post(chain.url, batch)

    assert first["result"] == hex(chain.chain_id)
    assert (second["id"], second["error"]["code"]) == (None, -32600)
    assert (third["id"], third["error"]["code"]) == ("x", -32601)
    assert post(chain.url, batch * 300)["error"]["code"] == -32600


def test_a_request_that_is_too_long_is_refused(chain: Network) -> None:
    with socket.create_connection(("127.0.0.1", int(chain.url.rsplit(":", 1)[1])), timeout=5) as raw:
        raw.sendall(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {MOST_BYTES + 1}\r\n\r\n".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_a_client_that_stalls_holds_nobody(chain: Network) -> None:
    port = int(chain.url.rsplit(":", 1)[1])
    stalled = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(20)]
    for raw in stalled:
        raw.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")

    begun = time.monotonic()
    assert chain.head() == 0
    assert time.monotonic() - begun < 1
    for raw in stalled:
        raw.close()


def test_after_a_transaction_some_empty_blocks_follow_and_then_it_rests(tmp_path: Path) -> None:
    clock = [1_000_000.0]
    chain = Chain(tmp_path / "chain.sqlite3", tail=3, clock=lambda: clock[0])
    stop = threading.Event()
    threading.Thread(target=chain.rest, args=(stop,), daemon=True).start()
    numbers = []
    with chain.lock:
        chain.mine()
        assert chain.head.block_number == 1
        chain._tail_left = 3
    for _ in range(6):
        clock[0] += 1
        time.sleep(0.15)
        with chain.lock:
            chain._changed.notify_all()
        time.sleep(0.15)
        numbers.append(chain.head.block_number)
    stop.set()

    assert numbers == [2, 3, 4, 4, 4, 4]


def test_blocks_follow_the_clock(chain: Network) -> None:
    for _ in range(30):
        chain.send(chain.alice, chain.bob.address, 1, gas=21_000)

    assert abs(chain.w3.eth.get_block("latest")["timestamp"] - time.time()) < 2


def test_it_is_quick(chain: Network) -> None:
    begun = time.monotonic()
    for number in range(100):
        chain.submit(chain.alice, chain.bob.address, 1, gas=21_000, nonce=number)
    writing = time.monotonic() - begun
    begun = time.monotonic()
    for _ in range(100):
        chain.rpc("eth_getBalance", chain.bob.address, "latest")
    reading = time.monotonic() - begun

    assert writing < 4, "about half a second on a quiet machine"
    assert reading < 2


def test_a_port_that_is_taken_is_named(chain: Network, tmp_path: Path) -> None:
    port = chain.url.rpartition(":")[2]
    command = [sys.executable, "-m", "chain.devnet", "--home", str(tmp_path / "second"), "--port", port]

    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=30, check=False)

    assert ended.returncode == 1
    assert f"127.0.0.1:{port}" in ended.stdout
    assert "--port 0" in ended.stdout
