"""The port: the one that is wanted, the one of the last run, else any that is free."""

import socket
from collections.abc import Iterator

import pytest

from marketplace.embedded import listener
from marketplace.embedded.listener import CannotListen, Listener


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which somebody else listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(listener, "SAME_PORT_WITHIN_S", 0.1)
    monkeypatch.delenv("HTTP_PORT", raising=False)
    monkeypatch.delenv("HTTP_HOST", raising=False)


def port_of(home) -> int:
    found = Listener(home)
    port = found.port
    found.close()
    return port


def test_a_taken_port_is_left_to_its_owner(home, taken, monkeypatch):
    monkeypatch.setattr(listener, "PREFERRED_PORT", taken)
    assert port_of(home) != taken


def test_the_port_of_the_last_run_is_used_again(home, taken, monkeypatch):
    monkeypatch.setattr(listener, "PREFERRED_PORT", taken)
    first = port_of(home)
    monkeypatch.setattr(listener, "PREFERRED_PORT", 1)
    assert port_of(home) == first


def test_a_remembered_port_that_is_taken_now_is_replaced(home, taken):
    home.remember("port", taken)
    again = port_of(home)
    assert again != taken
    assert home.remembered("port") == again


def test_a_wanted_port_is_used_or_refused_but_not_replaced(home, taken, monkeypatch):
    monkeypatch.setenv("HTTP_PORT", str(taken))
    with pytest.raises(CannotListen, match=f"127.0.0.1:{taken}"):
        Listener(home)
    monkeypatch.setenv("HTTP_PORT", "http")
    with pytest.raises(CannotListen, match="'http'"):
        Listener(home)


def test_an_address_of_another_machine_is_refused(home, monkeypatch):
    monkeypatch.setenv("HTTP_HOST", "192.0.2.1")
    with pytest.raises(CannotListen, match=r"192\.0\.2\.1"):
        Listener(home)


def test_a_listener_for_all_addresses_is_reached_on_this_machine(home, monkeypatch):
    monkeypatch.setenv("HTTP_HOST", "0.0.0.0")
    found = Listener(home)
    with socket.create_connection(("127.0.0.1", found.port)):
        assert found.local_url == f"http://127.0.0.1:{found.port}"
    found.close()
