"""How often one caller may do one thing."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.cache import cache
from rest_framework.settings import api_settings
from rest_framework.test import APIRequestFactory

from clients.origin import address_of, network_of
from clients.throttling import ScopedThrottle


class View:
    throttle_scope = "login"


@pytest.fixture(autouse=True)
def _three_a_minute(monkeypatch):
    monkeypatch.setitem(api_settings.DEFAULT_THROTTLE_RATES, "login", "3/min")


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1_000_000_020.0

    monkeypatch.setattr("clients.throttling.time.time", lambda: Clock.now)
    return Clock


def request(ip="192.0.2.1", user=None):
    made = APIRequestFactory().get("/", REMOTE_ADDR=ip)
    made.user = user
    return made


def allowed(**who):
    return ScopedThrottle().allow_request(request(**who), View)


def test_the_fourth_in_a_minute_waits_as_long_as_it_is_told(clock):
    assert [allowed() for _ in range(4)] == [True, True, True, False]
    throttle = ScopedThrottle()
    assert not throttle.allow_request(request(), View)
    clock.now += throttle.wait() - 0.1
    assert not allowed()
    clock.now += 0.2
    assert allowed()


def test_what_was_counted_fades_instead_of_vanishing(clock):
    clock.now += 50 - clock.now % 60
    assert [allowed() for _ in range(3)] == [True] * 3
    clock.now += 15
    assert not allowed()


def test_others_are_not_counted_with_it(clock, alice, bob):
    assert [allowed() for _ in range(4)][-1] is False
    assert allowed(ip="192.0.2.2")
    assert [allowed(user=alice) for _ in range(4)][-1] is False
    assert allowed(user=bob)


def test_an_ipv6_caller_is_counted_by_the_network_that_it_has_all_of(clock):
    assert [allowed(ip=f"2001:db8::{i}") for i in range(4)] == [True, True, True, False]
    assert allowed(ip="2001:db8:0:1::1")


def test_simultaneous_requests_do_not_pass_together():
    with ThreadPoolExecutor(8) as pool:
        passed = list(pool.map(lambda _: allowed(), range(16)))
    assert sum(passed) <= 3


def test_without_valkey_nothing_is_limited(settings, caplog):
    away = settings.CACHES["default"] | {"LOCATION": "unix:///nowhere/valkey.sock"}
    settings.CACHES = {"default": away}
    assert all(allowed() for _ in range(5))
    assert "not limited" in caplog.text
    cache.close()


def test_a_view_without_a_scope_is_not_limited():
    assert all(ScopedThrottle().allow_request(request(), object()) for _ in range(10))


def test_a_forwarding_header_does_not_change_who_is_counted():
    made = APIRequestFactory().get("/", REMOTE_ADDR="192.0.2.1", HTTP_X_FORWARDED_FOR="203.0.113.9")
    assert network_of(made) == address_of(made) == "192.0.2.1"
    assert address_of(request(ip="")) is None


def test_the_answer_is_a_429_with_the_seconds(api, db):
    for _ in range(4):
        reply = api().post("/client/login/", {})
    assert reply.status_code == 429
    assert int(reply["Retry-After"]) >= 1
    assert reply.json()["detail"]
