"""Tasks on a real chain, answered by nodes of a marketplace that runs, up to the provider's account."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
import orjson
import pytest
from aiohttp import web
from django.utils import timezone

from chain import broadcast, networks, pins, services
from chain.fulfilment.crew import Crew
from chain.models import Fulfilment, FulfilmentStatus, Response, Service, Serving, Transaction
from clients import ledger, terms
from clients.models import AccountKind, Client
from finetune import tasks
from finetune.models import Job
from gpus.models import Node
from inference.models import Inference
from marketplace.money import TOKEN
from tests.chain.fulfilled import Killed, Market
from tests.chain.network import Network as Devnet
from tests.engine import Engine
from tests.finetune import asked
from tests.served import Server

pytestmark = pytest.mark.django_db(transaction=True)
HELLO = {"function_name": "chat", "data": {"messages": [{"role": "user", "content": "Hello"}]}}


@pytest.fixture
def market(devnet: Devnet, server: Server, settings: Any) -> Market:
    settings.CHAIN_NETWORKS = [str(devnet.manifest_path)]
    settings.CHAIN_KEY = devnet.deployer.private_key
    settings.CHAIN_PROVIDER_KEY = devnet.accounts[4].private_key
    settings.INTERNAL_URL = server.url
    settings.CHAIN_SERVE_OPEN = True
    return Market(devnet, networks.default())


@pytest.fixture
def node(add_node: Callable[..., Node], engine: Engine, server: Server) -> Node:
    found = add_node("bobs", url=engine.url)
    server.knows(found)
    return found


def serve(market: Market, **options: Any) -> str:
    source = market.publish_source({"cpu": "", "nvidia": "", "amd": "", "name": "llama"}, **options)
    market.until(lambda: Service.objects.filter(source_address=source, registered_at__isnull=False).exists())
    return source


def earned(client: Client) -> int:
    return ledger.balance(ledger.account(client.pk, AccountKind.EARNED))


def is_(status: FulfilmentStatus) -> Callable[[], bool]:
    return lambda: Fulfilment.objects.filter(status=status).exists()


def test_the_first_response_is_paid_to_the_nodes_owner_less_the_fee(
    market: Market, node: Node, bob: Client, operator: Client
) -> None:
    terms.change(by=operator, reason="test", fee_bps=1000)
    source = serve(market)
    market.publish_task(source, HELLO, payment=2 * TOKEN)
    market.until(is_(FulfilmentStatus.CONFIRMED))
    found = Fulfilment.objects.get()
    assert (found.node, found.provider, found.paid, found.fee) == (node, bob, 2 * TOKEN, TOKEN // 5)
    assert earned(bob) == 2 * TOKEN - TOKEN // 5
    said = answer()
    assert said["choices"][0]["message"]["content"] == "one two three"
    assert said["onchain"] == {
        "network": "test", "source": source, "task": found.task_address, "function": "chat",
    }  # fmt: skip
    record = Inference.objects.get()
    assert (record.client.username, record.charged, record.pk) == ("onchain", 0, found.inference_id)
    assert Service.objects.get().status == Serving.SERVED


def test_a_task_that_does_not_pay_for_our_gas_is_declined(market: Market, node: Node) -> None:
    market.publish_task(serve(market), HELLO, payment=0)
    market.until(is_(FulfilmentStatus.DECLINED))
    assert Fulfilment.objects.get().code == "payment_too_low"
    assert not Transaction.objects.filter(purpose="attempt").exists()


def test_the_documents_own_example_is_answered(
    market: Market, node: Node, engine: Engine, operator: Client
) -> None:
    """An operator has said how: the marketplace serves no model that is called so."""
    source = market.publish_source(
        {"name": "sentiment-service", "description": "AI sentiment analysis service"}
    )
    market.until(lambda: Service.objects.exists())
    services.serve(
        Service.objects.get(), model="llama", by=operator, reason="A customer", now=timezone.now(),
        functions={"analyze_sentiment": {"kind": "chat", "prompt": "Say positive or negative: {text}"}},
    )  # fmt: skip
    market.until(lambda: Service.objects.filter(registered_at__isnull=False).exists())
    config = {"function_name": "analyze_sentiment", "data": {"text": "I love this product!"}}
    market.publish_task(source, config)
    market.until(is_(FulfilmentStatus.CONFIRMED))
    assert engine.asked[-1]["messages"][0]["content"] == "Say positive or negative: I love this product!"
    assert answer()["result"] == "one two three"


def test_with_manual_confirmation_it_is_paid_when_the_client_confirms(
    market: Market, node: Node, bob: Client
) -> None:
    source = serve(market, delivery=0)
    market.publish_task(source, HELLO)
    market.until(is_(FulfilmentStatus.ANSWERED))
    for _ in range(3):
        market.round()
    found = Fulfilment.objects.get()
    assert (found.status, earned(bob)) == (FulfilmentStatus.ANSWERED, 0)
    market.confirm(found.response_address)
    market.until(is_(FulfilmentStatus.CONFIRMED))
    assert earned(bob) == TOKEN
    vault = market.devnet.contract("VAULT").functions
    assert vault.balanceOf(market.devnet.deployer.address).call() == TOKEN, "the master has it on the chain"


def test_a_client_may_confirm_after_the_expiry(market: Market, node: Node, bob: Client) -> None:
    source = serve(market, delivery=0)
    market.publish_task(source, HELLO, expires_in_s=60)
    market.until(is_(FulfilmentStatus.ANSWERED))
    market.devnet.pass_time(100)
    market.round()
    market.confirm(Fulfilment.objects.get().response_address)
    market.until(is_(FulfilmentStatus.CONFIRMED))
    assert earned(bob) == TOKEN


def rival(market: Market, source: str, task: str) -> None:
    """charlie's provider is quicker."""
    nexus, charlie = market.devnet.contract("NEXUS").functions, market.devnet.charlie
    market.devnet.transact(charlie, nexus.register(source, charlie.address, 1), gas=1_000_000)
    market.devnet.transact(charlie, nexus.attempt(task, charlie.address, TOKEN), gas=1_000_000)
    said = (task, charlie.address, "https://example.com/answer", TOKEN)
    market.devnet.transact(charlie, nexus.submitResponse(said), gas=3_000_000)


def test_somebody_who_is_quicker_gets_it(market: Market, node: Node, bob: Client) -> None:
    source = serve(market)
    task = market.publish_task(source, HELLO)
    market.until(is_(FulfilmentStatus.ATTEMPTING))
    rival(market, source, task)
    market.until(is_(FulfilmentStatus.LOST))
    assert earned(bob) == 0


def test_a_client_that_chooses_another_answer_pays_that_one(market: Market, node: Node, bob: Client) -> None:
    source = serve(market, delivery=0)
    task = market.publish_task(source, HELLO)
    market.until(is_(FulfilmentStatus.ANSWERED))
    rival(market, source, task)
    market.confirm(
        market.devnet.contract("TASK", task).functions.responseOf(market.devnet.charlie.address).call()
    )
    market.until(is_(FulfilmentStatus.LOST))
    assert Fulfilment.objects.get().code == "other_confirmed"
    assert earned(bob) == 0


def test_a_task_that_is_cancelled_in_time_is_not_worked_on(
    market: Market, node: Node, engine: Engine
) -> None:
    source = serve(market)
    task = market.publish_task(source, HELLO)
    market.until(is_(FulfilmentStatus.ATTEMPTING))
    controller = market.devnet.contract("CONTROLLER").functions
    market.devnet.transact(market.devnet.alice, controller.cancelTask(task), gas=1_000_000)
    market.until(is_(FulfilmentStatus.LOST))
    assert not engine.asked


def test_an_attempt_that_comes_too_late_ends_it(market: Market, node: Node, engine: Engine) -> None:
    source = serve(market)
    task = market.publish_task(source, HELLO, expires_in_s=60)
    with market.devnet.held():
        market.until(is_(FulfilmentStatus.ATTEMPTING))
        market.round()
        market.devnet.pass_time(100)
    market.devnet.mine()
    market.until(is_(FulfilmentStatus.EXPIRED))
    assert not engine.asked
    assert market.devnet.contract("TASK", task).functions.getStatus().call() == 4


def test_an_answer_that_comes_too_late_is_not_given(
    market: Market, node: Node, engine: Engine, bob: Client
) -> None:
    source = serve(market)
    market.publish_task(source, HELLO, expires_in_s=60)
    market.until(is_(FulfilmentStatus.ANSWERING))
    market.devnet.pass_time(100)
    market.until(is_(FulfilmentStatus.EXPIRED))
    assert len(engine.asked) == 1
    assert earned(bob) == 0


def test_many_at_once_with_two_workers_are_each_done_once(
    market: Market, node: Node, engine: Engine, bob: Client
) -> None:
    source = serve(market)
    for number in range(8):
        config = {"function_name": "chat", "data": {"messages": [{"role": "user", "content": f"{number}"}]}}
        market.publish_task(source, config)
    crews = Crew(4), Crew(4)

    def round_of_both() -> bool:
        for crew in crews:
            market.hands = crew
            market.round()
        return Fulfilment.objects.filter(status=FulfilmentStatus.CONFIRMED).count() == 8

    market.until(round_of_both, 60)
    assert sorted(each["messages"][0]["content"] for each in engine.asked) == [str(each) for each in range(8)]
    assert earned(bob) == 8 * TOKEN
    assert Transaction.objects.filter(purpose="response").count() == 8


def test_a_slow_one_does_not_hold_up_the_others(market: Market, node: Node, engine: Engine) -> None:
    usual, gate = engine.behaviour, threading.Event()

    async def behave(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["messages"][0]["content"] == "slow":
            await asyncio.to_thread(gate.wait, 30)
        return await usual(request, body)

    engine.behaviour = behave
    source = serve(market)
    market.hands = Crew(2)
    market.publish_task(
        source, {"function_name": "chat", "data": {"messages": [{"role": "user", "content": "slow"}]}}
    )
    market.until(lambda: len(engine.asked) == 1)
    market.publish_task(source, HELLO)
    market.until(is_(FulfilmentStatus.CONFIRMED))
    assert Fulfilment.objects.filter(status=FulfilmentStatus.WORKING).count() == 1
    gate.set()
    market.until(lambda: Fulfilment.objects.filter(status=FulfilmentStatus.CONFIRMED).count() == 2)


def test_a_worker_that_is_killed_while_a_node_works_is_followed_by_one_that_gets_the_same_answer(
    market: Market, node: Node, engine: Engine, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = serve(market)
    market.publish_task(source, HELLO)
    with monkeypatch.context() as patch:
        patch.setattr(pins, "keep", _killed)
        with pytest.raises(Killed):
            market.until(is_(FulfilmentStatus.ANSWERING))
    assert len(engine.asked) == 1
    Fulfilment.objects.update(leased_until=timezone.now())
    market.until(is_(FulfilmentStatus.CONFIRMED))
    assert len(engine.asked) == 1
    assert Inference.objects.count() == 1
    assert earned(bob) == TOKEN


def _killed(*_args: Any, **_options: Any) -> Any:
    raise Killed


def test_a_confirmation_whose_block_is_replaced_pays_once_when_it_is_final(
    market: Market, node: Node, bob: Client, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "RESEND_AFTER", timedelta(seconds=1))
    source = serve(market)
    careful = tmp_path / "manifest.json"
    careful.write_text(json.dumps(market.devnet.manifest | {"confirmations": 4}))
    settings.CHAIN_NETWORKS = [str(careful)]
    market.publish_task(source, HELLO)
    market.devnet.mine(4)
    market.until(lambda: Response.objects.filter(confirmed_block__isnull=False).exists())
    assert earned(bob) == 0
    depth = market.devnet.head() - Response.objects.get().block_number + 1
    market.devnet.reorganise(depth)
    market.round()
    assert not Response.objects.exists()
    assert (earned(bob), Fulfilment.objects.get().paid) == (0, None)

    def mined() -> bool:
        market.devnet.mine()
        return is_(FulfilmentStatus.CONFIRMED)()

    market.until(mined)
    assert earned(bob) == TOKEN
    assert Transaction.objects.filter(purpose="response").count() == 1


def answer() -> Any:
    return orjson.loads(pins.read(pins.cid_in(Fulfilment.objects.get().answer_url) or ""))


def test_a_model_is_really_trained_for_a_task_and_its_files_can_be_fetched(
    market: Market, operator: Client, tmp_path: Path, settings: Any, server: Server
) -> None:
    settings.TRAINING_SLOTS = 1
    settings.PUBLIC_URL = server.url
    asked.ask(operator)
    asked.tiny(tmp_path / "tiny")
    source = market.publish_source({"cpu": services.url_of("tiny"), "name": "Fine-tuning"})
    market.until(lambda: Service.objects.filter(registered_at__isnull=False).exists())
    rows = [json.loads(line) for line in asked.chats(16).splitlines()]
    data = {
        "training_data": rows, "suffix": "colours", "seed": 7, "hyperparameters": {"n_epochs": 1, "batch_size": 4},
    }  # fmt: skip
    market.publish_task(source, {"function_name": "fine_tune", "data": data}, payment=100 * TOKEN)
    market.until(lambda: Job.objects.exists())
    assert tasks.run_jobs() == 1
    market.until(is_(FulfilmentStatus.CONFIRMED))
    said = answer()
    assert said["model"].startswith("ft:tiny:onchain:colours:")
    assert said["metrics"]
    for each in said["files"]:
        fetched = httpx.get(each["url"]).content
        assert (len(fetched), hashlib.sha256(fetched).hexdigest()) == (each["size"], each["sha256"])
    assert ledger.balance(ledger.account(None, AccountKind.FEES)) == 100 * TOKEN
    assert Transaction.objects.filter(purpose="response").count() == 1
