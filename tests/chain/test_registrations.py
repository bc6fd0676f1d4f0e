"""Our provider comes to be registered with the sources that we serve, on a real chain."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from chain import broadcast, ethereum, indexer, networks, outbox, registrations, services
from chain.ethereum import NodeAway
from chain.models import Service, Serving, Source, Transaction, TransactionStatus
from clients.models import Client
from inference.models import Model
from marketplace.money import TOKEN
from tests.chain.fulfilled import Market
from tests.chain.network import Network as Devnet

pytestmark = pytest.mark.django_db


@pytest.fixture
def market(devnet: Devnet, settings: Any) -> Market:
    settings.CHAIN_NETWORKS = [str(devnet.manifest_path)]
    settings.CHAIN_KEY = devnet.deployer.private_key
    settings.CHAIN_PROVIDER_KEY = devnet.accounts[4].private_key
    settings.CHAIN_SERVE_OPEN = True
    Model.objects.create(name="llama")
    return Market(devnet, networks.default())


def settle(market: Market, rounds: int = 8) -> None:
    """Everything that can happen without anything else."""
    for _ in range(rounds):
        now = timezone.now()
        indexer.follow(market.network, now=now)
        broadcast.advance(market.network, now=now)
        indexer.follow(market.network, now=timezone.now())
        market.network.refresh_from_db()
        Service.objects.update(next_try_at=now)
        Transaction.objects.update(next_try_at=now)
        Source.objects.update(fetch_at=now)
        for source_id in services.unread(market.network, now=now):
            services.read(source_id, now=now)
        for service_id in registrations.due(market.network, now=now):
            registrations.advance(service_id, now=now)


def look(market: Market) -> datetime:
    """The chain is read, and its sources; when."""
    indexer.follow(market.network, now=timezone.now())
    now = timezone.now()
    for source_id in services.unread(market.network, now=now):
        services.read(source_id, now=now)
    return now


def publish(market: Market, **options: Any) -> str:
    return market.publish_source({"name": "llama"}, **options)


def read(market: Market, name: str, function: str, *arguments: Any) -> Any:
    return getattr(market.devnet.contract(name).functions, function)(*arguments).call()


def is_registered(market: Market, source: str) -> bool:
    provider = market.devnet.accounts[4].address
    return bool(market.devnet.contract("SOURCE", source).functions.registrantId(provider).call())


def min_lockup(market: Market, amount: int) -> None:
    vault = market.devnet.contract("VAULT")
    market.devnet.transact(market.devnet.deployer, vault.functions.setMinLockupPerSource(amount))


def test_master_and_provider_are_paired_and_the_provider_is_registered(market: Market) -> None:
    source = publish(market)
    settle(market)
    operator, provider = market.devnet.deployer.address, market.devnet.accounts[4].address
    assert read(market, "TERMINAL", "masterOf", provider) == operator
    assert is_registered(market, source)
    service = Service.objects.get()
    assert service.registered_at is not None
    assert (service.status, service.obstacle) == (Serving.SERVED, "")
    assert sorted(Transaction.objects.values_list("reference", flat=True)) == [
        f"announce-master:{market.network.pk}:1",
        f"announce-provider:{market.network.pk}:1",
        f"register:{service.pk}:1",
    ]


def test_a_second_source_needs_only_its_registration(market: Market) -> None:
    publish(market)
    settle(market)
    second = publish(market)
    settle(market)
    assert is_registered(market, second)
    assert Transaction.objects.count() == 4


def test_what_is_registered_already_is_not_registered_again(market: Market) -> None:
    source = publish(market)
    settle(market)
    Service.objects.update(registered_at=None, registration=None)
    for purpose in ("register", "terminal"):
        Transaction.objects.filter(purpose=purpose).order_by("-pk").update(after=None)
        Transaction.objects.filter(purpose=purpose).delete()
    settle(market)
    assert Service.objects.get().registered_at is not None
    assert not Transaction.objects.exists()
    assert is_registered(market, source)


def test_the_stake_grows_with_the_sources(market: Market) -> None:
    min_lockup(market, 2 * TOKEN)
    provider = market.devnet.accounts[4].address
    first = publish(market)
    settle(market)
    assert is_registered(market, first)
    assert read(market, "VAULT", "lockupOf", provider) == 2 * TOKEN
    second = publish(market)
    settle(market)
    assert is_registered(market, second)
    assert read(market, "VAULT", "lockupOf", provider) == 4 * TOKEN


def test_a_stake_that_is_not_enough_any_more_is_raised(market: Market) -> None:
    source = publish(market)
    settle(market)
    min_lockup(market, 3 * TOKEN)
    registrations.lost(market.network, source, now=timezone.now())
    settle(market)
    assert read(market, "VAULT", "lockupOf", market.devnet.accounts[4].address) == 3 * TOKEN
    assert Service.objects.get().registered_at is not None
    assert Transaction.objects.filter(purpose="register").count() == 1


def test_a_network_without_such_contracts_is_an_obstacle(market: Market) -> None:
    publish(market)
    now = look(market)
    market.network.contracts.pop("TERMINAL")
    market.network.save()
    registrations.advance(registrations.due(market.network, now=now)[0], now=now)
    assert Service.objects.get().obstacle == "The network's manifest has no address of TERMINAL."


def test_a_source_may_ask_for_a_larger_stake_if_an_operator_serves_it(
    market: Market, operator: Client
) -> None:
    """Whoever publishes a source could have all our coins locked."""
    source = publish(market, lockup=7 * TOKEN)
    settle(market)
    service = Service.objects.get()
    assert (service.registered_at, service.status) == (None, Serving.SERVED)
    assert "An operator has to decide" in service.obstacle
    assert not Transaction.objects.exists()
    services.serve(service, model="llama", by=operator, reason="We know them.", now=timezone.now())
    settle(market)
    assert is_registered(market, source)
    assert read(market, "VAULT", "lockupOf", market.devnet.accounts[4].address) == 7 * TOKEN


def test_a_stake_that_cannot_be_paid_is_an_obstacle_that_passes(market: Market, operator: Client) -> None:
    source = publish(market, lockup=2_000_000 * TOKEN)
    settle(market)
    services.serve(Service.objects.get(), model="llama", by=operator, reason="", now=timezone.now())
    settle(market)
    service = Service.objects.get()
    assert service.registered_at is None
    assert service.obstacle.startswith("2000000 coins have to be staked")
    assert not Transaction.objects.exists()
    market.devnet.send(market.devnet.accounts[5], market.devnet.deployer.address, 999_000 * TOKEN, gas=21_000)
    market.devnet.send(market.devnet.accounts[6], market.devnet.deployer.address, 999_000 * TOKEN, gas=21_000)
    settle(market)
    assert is_registered(market, source)
    assert Service.objects.get().obstacle == ""


def test_one_key_may_be_master_and_provider(market: Market, settings: Any) -> None:
    settings.CHAIN_PROVIDER_KEY = ""
    min_lockup(market, TOKEN)
    source = publish(market)
    settle(market)
    operator = market.devnet.deployer.address
    assert market.devnet.contract("SOURCE", source).functions.registrantId(operator).call()
    assert read(market, "TERMINAL", "masterOf", operator) == operator


def test_a_provider_of_another_master_is_an_obstacle(market: Market) -> None:
    other, provider = market.devnet.bob, market.devnet.accounts[4]
    terminal = market.devnet.contract("TERMINAL").functions
    market.devnet.transact(other, terminal.announceProvider(provider.address, 0))
    market.devnet.transact(provider, terminal.announceMaster(other.address))
    publish(market)
    settle(market, 4)
    assert other.address in Service.objects.get().obstacle


def test_a_source_that_is_refused_is_left(market: Market, operator: Client) -> None:
    source = publish(market)
    settle(market)
    services.refuse(Service.objects.get(), by=operator, reason="Enough", now=timezone.now())
    settle(market)
    assert not is_registered(market, source)
    service = Service.objects.get()
    assert (service.registered_at, service.status) == (None, Serving.REFUSED)
    services.serve(service, model="llama", by=operator, reason="Once more", now=timezone.now())
    settle(market)
    assert is_registered(market, source)
    references = Transaction.objects.filter(purpose="register").values_list("reference", flat=True)
    assert sorted(references) == [
        f"register:{service.pk}:1",
        f"register:{service.pk}:2",
        f"unregister:{service.pk}:1",
    ]


def test_nothing_is_sent_while_something_is_on_its_way(market: Market) -> None:
    publish(market)
    now = look(market)
    (service_id,) = registrations.due(market.network, now=now)
    for _ in range(3):
        Service.objects.update(next_try_at=now)
        registrations.advance(service_id, now=now)
    assert Transaction.objects.count() == 3


def test_one_that_is_looked_after_is_left_to_whoever_does(market: Market) -> None:
    publish(market)
    now = look(market)
    (service_id,) = registrations.due(market.network, now=now)
    Service.objects.update(next_try_at=now + timedelta(seconds=60))
    registrations.advance(service_id, now=now)
    assert not Transaction.objects.exists()


def test_a_node_that_is_away_is_an_obstacle_that_passes(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = publish(market)
    now = look(market)
    with monkeypatch.context() as patch:
        patch.setattr(ethereum.Ethereum, "read", _away)
        registrations.advance(registrations.due(market.network, now=now)[0], now=now)
    service = Service.objects.get()
    assert "does not answer" in service.obstacle
    assert service.next_try_at == now + timedelta(seconds=10)
    settle(market)
    assert is_registered(market, source)


def _away(*_args: Any, **_options: Any) -> Any:
    raise NodeAway


def test_a_registration_that_the_chain_refuses_is_tried_again_later(market: Market) -> None:
    source = publish(market)
    settle(market, 1)
    row = Transaction.objects.filter(purpose="register").first()
    if row is None:
        settle(market, 1)
        row = Transaction.objects.get(purpose="register")
    now = timezone.now()
    assert outbox.end(row, TransactionStatus.REFUSED, now=now, reason="InsufficientLockup")
    service = Service.objects.get()
    assert service.obstacle == "The chain refuses the registration: InsufficientLockup"
    assert service.next_try_at == now + timedelta(seconds=10)
    settle(market)
    assert is_registered(market, source)
