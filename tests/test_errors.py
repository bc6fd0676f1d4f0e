"""marketplace.errors: how each API's clients learn that money or a limit is in the way."""

import pytest
from django.db import InterfaceError, OperationalError

from clients import ledger
from marketplace.errors import Face, TooManyRequests, headers, render, translate

BUDGET = ledger.refusal(
    "limit_reached",
    {
        "limit": "budget_day",
        "scope": "api_key",
        "allowed": "5",
        "used": "4",
        "needed": "2",
        "retry_after": 60.2,
    },
)
RATE = ledger.refusal(
    "limit_reached",
    {
        "limit": "requests_per_minute", "scope": "account", "allowed": 5, "used": 5, "needed": 1, "retry_after": 1.2,
    },
)  # fmt: skip
TOO_LARGE = ledger.refusal(
    "limit_reached",
    {
        "limit": "tokens_per_minute",
        "scope": "account",
        "allowed": 5,
        "used": 0,
        "needed": 9,
        "retry_after": None,
    },
)
POOR = ledger.refusal("insufficient_balance", {"available": "1", "needed": "2"})


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (BUDGET, 429, "insufficient_quota", "insufficient_quota"),
        (RATE, 429, "rate_limit_error", "rate_limit_exceeded"),
        (TOO_LARGE, 429, "rate_limit_error", "rate_limit_exceeded"),
        (POOR, 402, "insufficient_quota", "insufficient_balance"),
    ],
)
def test_openais_clients_read_their_own_words(error, status, kind, code):
    body = render(error, Face.OPENAI)["error"]
    assert (error.status, body["type"], body["code"]) == (status, kind, code)


@pytest.mark.parametrize(
    ("error", "code", "ours"),
    [
        (BUDGET, "RATE_LIMITED", "budget_exceeded"),
        (RATE, "RATE_LIMITED", "rate_limit_exceeded"),
        (TooManyRequests(), "RATE_LIMITED", None),
        (POOR, "INSUFFICIENT_BALANCE", None),
    ],
)
def test_omnitensors_clients_read_one_code_for_each_status(error, code, ours):
    body = render(error, Face.OMNITENSOR)["error"]
    assert (body["code"], body["details"].get("code")) == (code, ours)


@pytest.mark.parametrize("face", [Face.DRF, Face.FINE_TUNING, Face.BROKER])
def test_the_others_are_told_in_a_sentence(face):
    assert "The budget of this API key for today (UTC) is" in str(render(BUDGET, face))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BUDGET, {"Retry-After": "61", "X-Should-Retry": "false"}),
        (RATE, {"Retry-After": "2"}),
        (TOO_LARGE, {"X-Should-Retry": "false"}),
        (POOR, {"X-Should-Retry": "false"}),
    ],
)
def test_clients_wait_where_waiting_helps_and_not_a_moment_too_short(error, expected):
    assert headers(error) == expected


@pytest.mark.parametrize("lost", [OperationalError, InterfaceError])
def test_where_the_database_is_away_nobody_is_told_that_nothing_was_done(lost):
    error = translate(lost("server closed the connection unexpectedly"))
    assert (error.status, error.code, error.retry_after) == (503, "database_unavailable", 2)
    assert "Idempotency-Key" in error.message
    assert "server closed" not in error.message
