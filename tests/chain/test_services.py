"""Which sources our nodes work for: by themselves, by an operator's word, or not."""

from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F

from chain import documents, gas_costs, networks, services
from chain.documents import NotFetched
from chain.functions import BadDefinition
from chain.models import Network, Service, Serving, Source, SourceStatus
from chain.services import AlreadySo, CannotServe
from clients import terms
from clients.models import AuditEntry, Client
from gpus.models import NodeState, Offer
from inference.catalogue import ModelNotFound
from inference.models import Model
from marketplace import money
from marketplace.money import TOKEN
from tests.chain import fulfilled
from tests.chain.api import made
from tests.chain.fulfilled import NOW

pytestmark = pytest.mark.django_db
BY_NAME = {"cpu": "", "nvidia": "", "amd": "", "name": "llama", "description": "Answers"}


@pytest.fixture
def network() -> Network:
    return fulfilled.network()


@pytest.fixture(autouse=True)
def model() -> Model:
    return Model.objects.create(name="llama")


@pytest.fixture(autouse=True)
def serves_by_itself(settings: Any) -> None:
    settings.CHAIN_SERVE_OPEN = True


def published(network: Network, metadata: Any = BY_NAME, **fields: Any) -> Source:
    link = metadata if isinstance(metadata, str) else fulfilled.pin(metadata)
    return fulfilled.source(network, served=False, metadata_url=link, **fields)


def read(source: Source, *, after: timedelta = timedelta()) -> Service:
    now = NOW + after
    assert source.pk in services.unread(source.network, now=now)
    services.read(source.pk, now=now)
    source.refresh_from_db()
    return Service.objects.get(source_address=source.address)


def test_a_source_that_is_called_like_a_model_of_ours_is_served(network: Network) -> None:
    source = published(network)
    found = read(source)
    assert (found.status, found.model, found.decided_by) == (Serving.SERVED, "llama", None)
    assert (source.name, source.description, source.metadata) == ("llama", "Answers", BY_NAME)
    assert services.unread(network, now=NOW + timedelta(days=1)) == []


@pytest.mark.parametrize("field", ["cpu", "nvidia", "amd"])
def test_a_source_that_points_to_our_service_document_is_served(network: Network, field: str) -> None:
    metadata = BY_NAME | {"name": "My service", field: services.url_of("llama")}
    assert read(published(network, metadata)).model == "llama"


def test_a_models_name_may_have_anything_in_it(network: Network) -> None:
    Model.objects.create(name="org/llama 3:ü")
    assert (
        read(published(network, BY_NAME | {"name": "", "cpu": services.url_of("org/llama 3:ü")})).model
        == "org/llama 3:ü"
    )


def test_a_model_that_comes_after_its_source_is_noticed(network: Network, settings: Any) -> None:
    service = read(published(network, BY_NAME | {"name": "later"}))
    assert service.status == Serving.ASKED
    Model.objects.create(name="later")
    services.reconsider(network, now=NOW + timedelta(minutes=1))
    service.refresh_from_db()
    assert (service.status, service.model) == (Serving.SERVED, "later")


def test_sources_that_wait_are_not_looked_at_all_the_time(
    network: Network, django_assert_num_queries: Any
) -> None:
    read(published(network, BY_NAME | {"name": "later"}))
    services.reconsider(network, now=NOW)
    Model.objects.create(name="later")
    with django_assert_num_queries(1):
        services.reconsider(network, now=NOW + timedelta(seconds=30))
    assert Service.objects.get().status == Serving.ASKED


def test_so_many_that_wait_are_looked_at_with_few_questions(
    network: Network, django_assert_max_num_queries: Any
) -> None:
    for number in range(30):
        service = read(published(network, BY_NAME | {"name": f"later {number}"}))
    with django_assert_max_num_queries(9):
        services.reconsider(network, now=NOW + timedelta(minutes=1))
    service.refresh_from_db()
    assert (service.status, service.next_try_at) == (Serving.ASKED, NOW + timedelta(minutes=2))


def test_only_so_many_new_ones_an_hour_are_served_without_an_operator(network: Network) -> None:
    sources = [published(network) for _ in range(services.MOST_OPEN_AN_HOUR + 2)]
    found = [read(source) for source in sources]
    assert [one.status for one in found[:-2]] == [Serving.SERVED] * services.MOST_OPEN_AN_HOUR
    assert [one.status for one in found[-2:]] == [Serving.ASKED] * 2
    assert "20 sources" in found[-1].reason
    services.reconsider(network, now=NOW + timedelta(minutes=59))
    assert Service.objects.filter(status=Serving.SERVED).count() == services.MOST_OPEN_AN_HOUR
    services.reconsider(network, now=NOW + timedelta(minutes=61))
    assert not Service.objects.filter(status=Serving.ASKED).exists()
    found[-1].refresh_from_db()
    assert "20 sources" not in found[-1].reason


def test_only_so_many_are_served_without_an_operator(
    network: Network, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "MOST_OPEN", 2)
    first, _ = [read(published(network)) for _ in range(2)]
    third = read(published(network))
    assert (third.status, "2 sources" in third.reason) == (Serving.ASKED, True)
    # What has another model now is no new one; a network has its own number; an operator's do not count.
    other = fulfilled.network(name="other", chain_id=5)
    assert read(published(other)).status == Serving.SERVED
    services.serve(first, model="llama", by=operator, reason="A customer", now=NOW)
    services.reconsider(network, now=NOW + timedelta(minutes=1))
    third.refresh_from_db()
    assert third.status == Serving.SERVED


def test_those_that_have_closed_make_room(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "MOST_OPEN", 1)
    source = published(network)
    read(source)
    assert read(published(network)).status == Serving.ASKED
    Source.objects.filter(pk=source.pk).update(status=SourceStatus.INACTIVE)
    assert read(published(network)).status == Serving.SERVED


def test_without_leave_nothing_is_reconsidered(network: Network, settings: Any) -> None:
    settings.CHAIN_SERVE_OPEN = False
    read(published(network))
    services.reconsider(network, now=NOW + timedelta(minutes=5))
    assert Service.objects.get().status == Serving.ASKED


def test_without_leave_an_operator_decides(network: Network, settings: Any) -> None:
    settings.CHAIN_SERVE_OPEN = False
    found = read(published(network))
    assert (found.status, found.model) == (Serving.ASKED, "")


@pytest.mark.parametrize(
    "metadata",
    [
        BY_NAME | {"name": "other"},
        BY_NAME | {"name": "x", "cpu": "https://evil.example/chain/services/llama/"},
        {},
        [],
        "https://example.invalid/x",
        {"name": 5, "cpu": ["x"]},
        {"name": "LLAMA"},
    ],
)
def test_what_names_no_model_of_ours_waits_for_an_operator(
    network: Network, metadata: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(metadata, str):
        monkeypatch.setattr(documents, "fetch_json", _refuse("address_refused", may_pass=False))
    assert read(published(network, metadata)).status == Serving.ASKED


def test_somebodys_private_model_and_a_hidden_one_are_not_offered(network: Network, alice: Client) -> None:
    Model.objects.create(name="private", owner=alice)
    Model.objects.create(name="hidden", hidden=True)
    Model.objects.create(name="published", owner=alice, published_at=NOW)
    assert read(published(network, BY_NAME | {"name": "private"})).status == Serving.ASKED
    assert read(published(network, BY_NAME | {"name": "hidden"})).status == Serving.ASKED
    assert read(published(network, BY_NAME | {"name": "published"})).status == Serving.SERVED


def _refuse(code: str, *, may_pass: bool) -> Any:
    def fetch(url: str, **_options: Any) -> Any:
        raise NotFetched(code, "no", may_pass=may_pass)

    return fetch


def test_a_link_that_cannot_be_followed_is_tried_less_and_less_often(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = published(network)
    with monkeypatch.context() as patch:
        patch.setattr(documents, "fetch_json", _refuse("unreachable", may_pass=True))
        assert read(source).status == Serving.ASKED
        assert services.unread(network, now=NOW + timedelta(seconds=9)) == []
        read(source, after=timedelta(seconds=10))
        assert services.unread(network, now=NOW + timedelta(seconds=60)) == []
    assert read(source, after=timedelta(seconds=70)).status == Serving.SERVED


def test_a_link_is_given_up_in_the_end(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "fetch_json", _refuse("unreachable", may_pass=True))
    source = published(network)
    for number in range(services.MOST_TRIES):
        read(source, after=timedelta(hours=2 * number))
    assert services.unread(network, now=NOW + timedelta(days=30)) == []


def test_two_that_look_at_a_source_at_once_fetch_it_once(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = published(network)
    fetched = []

    def fetch(url: str) -> Any:
        fetched.append(url)
        services.read(source.pk, now=NOW)
        return {}

    monkeypatch.setattr(documents, "fetch_json", fetch)
    services.read(source.pk, now=NOW)
    assert len(fetched) == 1


def test_a_source_that_is_changed_is_read_again(network: Network) -> None:
    Model.objects.create(name="other")
    source = published(network)
    read(source)
    Source.objects.update(metadata_url=fulfilled.pin(BY_NAME | {"name": "other"}))
    found = read(source, after=timedelta(minutes=2))
    assert (found.model, source.name) == ("other", "other")


def test_a_closed_source_is_not_looked_at(network: Network) -> None:
    published(network, status=SourceStatus.INACTIVE)
    assert services.unread(network, now=NOW) == []


def test_what_an_operator_has_decided_stays_so(network: Network, operator: Client) -> None:
    source = published(network)
    service = read(source)
    services.refuse(service, by=operator, reason="Spam", now=NOW)
    Source.objects.update(metadata_url=F("metadata_url"), fetched_url="")
    assert read(source, after=timedelta(minutes=2)).status == Serving.REFUSED


def test_hostile_metadata_are_stored_as_far_as_they_go(network: Network) -> None:
    source = published(network, {"name": "x" * 10_000, "description": "y" * 100_000})
    assert read(source).status == Serving.ASKED
    assert (len(source.name), len(source.description)) == (200, 10_000)
    bad = published(network, fulfilled.pin(b'{"name": "a\\u0000b"}'))
    assert read(bad).status == Serving.ASKED
    assert (bad.name, bad.metadata) == ("", None)


def test_an_operator_serves_a_source_with_functions_of_its_own(network: Network, operator: Client) -> None:
    service = read(published(network, BY_NAME | {"name": "other"}))
    functions = {"analyze_sentiment": {"kind": "chat", "prompt": "{text}"}}
    services.serve(service, model="llama", functions=functions, by=operator, reason="A customer", now=NOW)
    service.refresh_from_db()
    assert (service.status, service.model, service.functions) == (Serving.SERVED, "llama", functions)
    assert (service.decided_by, service.decided_at, service.reason) == (operator, NOW, "A customer")
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.by, entry.reason) == ("serve_source", operator, "A customer")


def test_it_is_not_served_with_what_there_is_not(network: Network, operator: Client, alice: Client) -> None:
    Model.objects.create(name="private", owner=alice)
    service = read(published(network, BY_NAME | {"name": "other"}))
    for model in ("nothing", "private"):
        with pytest.raises(CannotServe):
            services.serve(service, model=model, functions={}, by=operator, reason="x", now=NOW)
    with pytest.raises(BadDefinition):
        services.serve(service, model="llama", functions={"f": {}}, by=operator, reason="x", now=NOW)
    service.refresh_from_db()
    assert service.status == Serving.ASKED
    assert not AuditEntry.objects.exists()


def test_a_prompt_of_the_operators_needs_a_model_of_the_operators(network: Network, operator: Client) -> None:
    """No task can name one: its data are what the prompt is filled with."""
    service = read(published(network, BY_NAME | {"name": "other"}))
    functions = {"analyze_sentiment": {"kind": "chat", "prompt": "{text}"}}
    with pytest.raises(CannotServe, match="analyze_sentiment"):
        services.serve(service, model="", functions=functions, by=operator, reason="x", now=NOW)
    service.refresh_from_db()
    assert service.status == Serving.ASKED


def test_refusing_twice_is_told(network: Network, operator: Client) -> None:
    service = read(published(network))
    services.refuse(service, by=operator, reason="Spam", now=NOW)
    with pytest.raises(AlreadySo):
        services.refuse(service, by=operator, reason="Spam", now=NOW)
    assert [entry.action for entry in AuditEntry.objects.all()] == ["refuse_source"]


def test_the_document_tells_what_can_be_asked_and_for_how_much(operator: Client, add_node: Any) -> None:
    node = add_node("bobs")
    type(node).objects.update(state=NodeState.ONLINE)
    terms.change(
        by=operator, reason="x", fee_bps=1000, default_input_price=TOKEN, default_output_price=2 * TOKEN,
        default_request_price=TOKEN // 1000,
    )  # fmt: skip
    assert Offer.objects.get().model == "llama"
    said = services.document("llama")
    assert (said["model"], said["kinds"], said["fee_bps"]) == ("llama", ["chat", "completion"], 1000)
    assert {"chat", "completion", "inference"} <= set(said["functions"])
    assert said["functions"]["chat"]["input"]["required"] == ["messages"]
    assert said["prices"]["lowest"] == {"input_price": "1", "output_price": "2", "request_price": "0.001"}
    # (1000 × 1 + 256 × 2) / 10^6 + 0.001, and a ninth more for the fee.
    assert said["prices"]["usual_payment"] == "0.002791111111111112"


def test_the_usual_payment_is_also_for_our_own_transactions(
    operator: Client, add_node: Any, settings: Any, tmp_path: Any
) -> None:
    made.manifest(settings, tmp_path)
    type(add_node("bobs")).objects.update(state=NodeState.ONLINE)
    terms.change(by=operator, reason="x", fee_bps=1000, default_request_price=TOKEN // 1000)
    assert services.document("llama")["prices"]["usual_gas"] == "0"
    gas_costs.note(networks.default(), base_fee=10**9)
    said = services.document("llama")["prices"]
    assert said["usual_gas"] == "0.000908857"
    assert said["usual_payment"] == money.render(services.payment_for(TOKEN // 1000 + 908_857 * 10**9, 1000))


def test_there_is_no_document_of_what_nobody_may_use(alice: Client) -> None:
    Model.objects.create(name="private", owner=alice)
    for name in ("private", "nothing"):
        with pytest.raises(ModelNotFound):
            services.document(name)


def test_a_payment_leaves_what_a_node_asks() -> None:
    for cost in (0, 1, 7, 10**18 + 1):
        for fee_bps in (0, 1, 333, 1000, 9999):
            payment = services.payment_for(cost, fee_bps)
            assert payment - payment * fee_bps // 10_000 >= cost
            assert payment * (10_000 - fee_bps) < (cost + 1) * 10_000
