from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from clients import ledger
from clients.models import Account, Transfer
from gpus.models import Gateway
from inference import records, tasks
from inference.models import Inference, Running, Status

NOW = timezone.now()


@pytest.fixture
def running(alice: Any) -> Any:
    def start(*, age_s: float = 60, **fields: Any) -> Inference:
        record = Inference.objects.create(client=alice, kind="chat", desired_model="toy", **fields)
        began = NOW - timedelta(seconds=age_s)
        Inference.objects.filter(pk=record.pk).update(created_at=began)
        if record.status == Status.RUNNING:
            Running.objects.create(
                inference=record, client_id=alice.pk, gateway_id=record.gateway_id, created_at=began
            )
        return record

    return start


@pytest.fixture
def gateway(db: None) -> Gateway:
    return Gateway.objects.create(host="test", pid=1, started_at=NOW, seen_at=NOW)


def test_what_a_lost_process_left_is_ended_with_a_reason(running: Any, gateway: Gateway) -> None:
    left, kept = running(gateway_id=uuid4()), running(gateway_id=gateway.pk)

    assert records.sweep(now=NOW) == 1

    left.refresh_from_db()
    kept.refresh_from_db()
    assert (left.status, left.code, left.finished_at) == (Status.FAILED, "gateway_lost", NOW)
    assert "send the request again" in left.reason
    assert kept.status == Status.RUNNING


def test_a_process_that_went_quiet_is_lost(running: Any, gateway: Gateway) -> None:
    left = running(gateway_id=gateway.pk)

    records.sweep(now=NOW + Gateway.LOST_AFTER + timedelta(seconds=1))

    left.refresh_from_db()
    assert left.code == "gateway_lost"


def test_a_request_that_has_just_begun_is_left_alone(running: Any) -> None:
    running(gateway_id=uuid4(), age_s=1)

    assert records.sweep(now=NOW) == 0


def test_what_runs_past_any_deadline_is_ended(running: Any, gateway: Gateway, settings: Any) -> None:
    settings.REQUEST_DEADLINE_S = 100
    late, unowned = running(gateway_id=gateway.pk, age_s=161), running(age_s=161)
    running(gateway_id=gateway.pk, age_s=159)
    running(age_s=159)

    assert records.sweep(now=NOW) == 2
    for record in (late, unowned):
        record.refresh_from_db()
        assert (record.status, record.code) == (Status.FAILED, "deadline_exceeded")


def test_what_has_ended_stays_as_it_ended(running: Any) -> None:
    running(gateway_id=uuid4(), status=Status.COMPLETED, age_s=10_000)

    assert tasks.sweep_inferences() == 0


def test_what_a_lost_request_held_is_released_with_it(running: Any, alice: Any) -> None:
    left = running(gateway_id=uuid4())
    ledger.grant(client_id=alice.pk, amount=10, reference="grant:test", reason="test", by_id=None)
    ledger.hold(reference=f"inference:{left.pk}", client_id=alice.pk, amount=7)

    assert records.sweep(now=NOW) == 1

    assert Account.objects.get(client=alice).held == 0
    assert not Transfer.objects.filter(kind="inference").exists()
    assert not Running.objects.exists()
