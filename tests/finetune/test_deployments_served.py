"""Asking by a name while the model behind it changes."""

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest
from django.utils import timezone

from finetune import deployments, tasks
from finetune.models import Deployment
from gpus.models import Node, NodeState, Offer
from inference.models import Model
from tests.engine import Engine
from tests.finetune import made
from tests.served import Server, last_record

LIVE = "ft:toy:alice:live"
BODY = {"model": LIVE, "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(autouse=True)
def _unrung(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "ring", lambda _task: None)


@pytest.fixture
def deploy(
    server: Server, engine: Engine, add_node: Callable[..., Node], alice: Any
) -> Callable[[str], Deployment]:
    """`deploy("a")` has a node serve a model of alice's, and lets the live name lead to it."""
    toy = made.model(None, "toy")
    node = add_node("one", model="other", url=engine.url)
    Node.objects.filter(pk=node.pk).update(
        state=NodeState.ONLINE, hosting=made.HostingTalent().to_json(), state_since=timezone.now()
    )

    def one(word: str) -> Deployment:
        model = made.model(alice, f"ft:toy:alice:{word}:1234abcd", base=toy.revision)
        found = deployments.start(model, now=timezone.now())
        assert model.revision is not None
        made.serve(model, node)
        Offer.objects.filter(model=model.name).update(revision=model.revision.label)
        Node.objects.get(pk=node.pk).save()
        live = server.hot.gateway.directory.nodes
        server.until(lambda: node.pk in live and model.name in live[node.pk].offers)
        deployments.sweep(now=timezone.now())
        found.refresh_from_db()
        assert found.status == "live"
        return found

    return one


def answering(http: httpx.Client, engine: Engine) -> str:
    """Which model the node was asked for when alice asked by the live name."""
    reply = http.post("/v1/chat/completions", json=BODY)
    assert reply.status_code == 200, reply.text
    return str(engine.asked[-1]["model"])


def within(seconds: float, true: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_a_name_leads_to_what_is_deployed_and_back(
    deploy: Callable[[str], Deployment], http: httpx.Client, engine: Engine, alice: Any
) -> None:
    assert http.post("/v1/chat/completions", json=BODY).status_code == 404
    first = deploy("a")
    within(1, lambda: http.post("/v1/chat/completions", json=BODY).status_code == 200)
    assert answering(http, engine) == first.model.name
    second = deploy("b")
    within(1, lambda: answering(http, engine) == second.model.name)
    deployments.roll_back(second, by=alice, now=timezone.now())
    within(1, lambda: answering(http, engine) == first.model.name)
    assert last_record("completed").desired_model in (LIVE, first.model.name)


def test_no_request_fails_while_the_name_moves_in_several_processes(
    deploy: Callable[[str], Deployment], serve: Callable[[], Server], server: Server, engine: Engine, key: str
) -> None:
    first = deploy("a")
    urls = [server.url, serve().url]
    headers = {"Authorization": f"Bearer {key}"}
    answers: list[int] = []
    ends = threading.Event()

    def keep_asking(url: str) -> None:
        with httpx.Client(base_url=url, headers=headers, timeout=20) as client:
            while not ends.is_set():
                answers.append(client.post("/v1/chat/completions", json=BODY).status_code)

    with httpx.Client(headers=headers) as client:
        for url in urls:
            within(5, lambda url=url: client.post(f"{url}/v1/chat/completions", json=BODY).status_code == 200)  # type: ignore[misc]
        threads = [threading.Thread(target=keep_asking, args=[url]) for url in urls * 2]
        for thread in threads:
            thread.start()
        second = deploy("b")
        for url in urls:
            within(1, lambda url=url: _asked(client, url, engine, second.model))  # type: ignore[misc]
        time.sleep(0.3)
        moved_at = len(engine.asked)
        time.sleep(0.5)
        ends.set()
        for thread in threads:
            thread.join()
    assert set(answers) == {200}
    assert {each["model"] for each in engine.asked[moved_at:]} == {second.model.name}
    assert {each["model"] for each in engine.asked} == {first.model.name, second.model.name}


def _asked(client: httpx.Client, url: str, engine: Engine, model: Model) -> bool:
    before = len(engine.asked)
    assert client.post(f"{url}/v1/chat/completions", json=BODY).status_code == 200
    return {each["model"] for each in engine.asked[before:]} == {model.name}
