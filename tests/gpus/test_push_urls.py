import socket
from typing import Any

import pytest

from gpus import push_urls
from gpus.push_urls import PushUrlRefused


@pytest.fixture
def leads_to(monkeypatch: pytest.MonkeyPatch) -> Any:
    def answer(*addresses: str) -> None:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    return answer


@pytest.mark.parametrize(
    "url", ["http://node.example.com", "https://node.example.com:8443/base", "http://8.8.8.8"]
)
def test_a_public_address_is_accepted(url: str, leads_to: Any) -> None:
    leads_to("8.8.8.8")

    push_urls.check(url)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://node.example.com",
        "file:///etc/passwd",
        "node.example.com",
        "http://",
        "http://user@node.example.com",
        "http://user:password@node.example.com",
        "http://:@node.example.com",
        "http://node.example.com:99999",
        "http://node.example.com:0",
        "http://node.example.com/?to=x",
        "http://node.example.com/#x",
        "http://node.example.com/ x",
        "http://node.example.com/\r\nHost: x",
        "http://nodé.example.com",
        "http://[::1",
        "http://" + "a" * 600 + ".com",
        "",
    ],
)
def test_what_is_no_plain_http_url_is_refused(url: str, leads_to: Any) -> None:
    leads_to("8.8.8.8")

    with pytest.raises(PushUrlRefused):
        push_urls.check(url)


INSIDE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "::1",
    "fd00::1",
    "::ffff:10.0.0.1",
]
NEVER = [
    "169.254.169.254",
    "fe80::1",
    "fe80::1%eth0",
    "224.0.0.1",
    "ff02::1",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "255.255.255.255",
    "240.0.0.1",
    "100.100.100.200",
    "fd00:ec2::254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
]


@pytest.mark.parametrize("address", INSIDE)
def test_inside_addresses_need_the_setting(address: str, settings: Any) -> None:
    settings.ALLOW_PRIVATE_NODE_URLS = False
    assert not push_urls.is_allowed(address)

    settings.ALLOW_PRIVATE_NODE_URLS = True
    assert push_urls.is_allowed(address)


@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_are_never_called(address: str, settings: Any) -> None:
    settings.ALLOW_PRIVATE_NODE_URLS = True

    assert not push_urls.is_allowed(address)


@pytest.mark.parametrize("address", ["64:ff9b::0a00:0001", "2002:0a00:0001::1", "::10.0.0.1"])
def test_an_inside_address_in_disguise_is_refused(address: str) -> None:
    assert not push_urls.is_allowed(address)


@pytest.mark.parametrize(
    "spelling", ["http://2130706433/", "http://0x7f.1/", "http://127.1/", "http://[::ffff:127.0.0.1]/"]
)
def test_odd_spellings_of_loopback_are_refused(spelling: str) -> None:
    with pytest.raises(PushUrlRefused):
        push_urls.check(spelling)


def test_only_the_allowed_addresses_of_a_name_are_used(leads_to: Any) -> None:
    leads_to("10.0.0.1", "8.8.8.8", "8.8.8.8", "169.254.169.254")

    assert push_urls.resolve("node.example.com", 80) == ["8.8.8.8"]


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(PushUrlRefused, match="cannot be resolved"):
        push_urls.check("http://does-not-exist.invalid/")
