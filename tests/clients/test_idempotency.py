"""`Idempotency-Key` for views: one effect, one reply, in one transaction."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.http.response import HttpResponseBase
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.test import APIClient, APIRequestFactory, force_authenticate
from rest_framework.views import APIView

from clients import idempotency, keys, ledger, tasks
from clients.api.idempotency import once
from clients.models import AccountKind, Client, Hold, Payout, StoredReply, Transfer, TransferKind
from marketplace import money
from marketplace.errors import InvalidRequest

PATH = "/account/pay"


class Pay(APIView):
    """Pays charlie as many tokens as the body says."""

    before_paying: Callable[[], None] = staticmethod(lambda: None)
    after_paying: Callable[[], None] = staticmethod(lambda: None)

    @once
    def post(self, request: Request) -> Response:
        Pay.before_paying()
        paid = ledger.transfer(
            source=ledger.account(request.user.pk, AccountKind.SPENDABLE),
            destination=ledger.account(Client.objects.get(username="charlie").pk, AccountKind.SPENDABLE),
            amount=int(request.data["tokens"]) * money.TOKEN,
            reference=f"transfer:{Transfer.objects.count()}",
            kind=TransferKind.TRANSFER,
        )
        Pay.after_paying()
        return Response({"id": paid.pk, "at": paid.at}, status=201, headers={"X-Paid": "yes"})


def pay(person: Client, *, key: str | None = "one", path: str = PATH, **body: Any) -> HttpResponseBase:
    headers = {} if key is None else {"Idempotency-Key": key}
    request = APIRequestFactory().post(path, body or {"tokens": 3}, headers=headers, format="json")
    force_authenticate(request, person)
    response = Pay.as_view()(request)
    if isinstance(response, Response):
        response.render()
    return response


def paid() -> int:
    return Transfer.objects.filter(kind=TransferKind.TRANSFER).count()


def code_of(response: Any) -> str:
    assert isinstance(response, Response)
    return str(response.data["error"]["code"])


@pytest.fixture(autouse=True)
def _rich(request: Any, alice: Client, charlie: Client) -> None:
    for person in (alice, charlie):
        ledger.grant(
            client_id=person.pk,
            amount=10 * money.TOKEN,
            reference=f"grant:{person}",
            reason="test",
            by_id=None,
        )


@pytest.fixture
def hook(monkeypatch: Any) -> Callable[..., None]:
    return lambda name, do: monkeypatch.setattr(Pay, name, staticmethod(do))


def test_a_repeat_gets_the_same_reply_and_pays_nothing(alice: Client) -> None:
    first, again = pay(alice), pay(alice)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content  # type: ignore[attr-defined]
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert (first.headers["X-Paid"], again.headers["X-Paid"]) == ("yes", "yes")
    assert (first.headers.get("Idempotent-Replayed"), again.headers["Idempotent-Replayed"]) == (None, "true")
    assert paid() == 1


def test_without_the_header_each_request_counts(alice: Client) -> None:
    pay(alice, key=None)
    pay(alice, key=None)
    assert paid() == 2
    assert not StoredReply.objects.exists()


def test_either_spelling_of_the_path_is_the_same_request(alice: Client) -> None:
    pay(alice)
    assert pay(alice, path=PATH + "/").headers["Idempotent-Replayed"] == "true"


def test_another_request_with_the_same_key_is_refused_for_good(alice: Client) -> None:
    pay(alice)
    for refused in (pay(alice, tokens=4), pay(alice, path="/account/other")):
        assert (refused.status_code, code_of(refused)) == (409, "IDEMPOTENCY_KEY_REUSED")
        assert refused.headers["X-Should-Retry"] == "false"
    assert paid() == 1


def test_keys_of_different_clients_have_nothing_to_do_with_each_other(
    alice: Client, operator: Client
) -> None:
    ledger.grant(client_id=operator.pk, amount=10 * money.TOKEN, reference="grant:o", reason="x", by_id=None)
    pay(alice)
    assert pay(operator, tokens=4).status_code == 201
    assert paid() == 2


@pytest.mark.parametrize("bad", ["", "x" * 256, "naïve", "a\tb"])
def test_a_bad_key_is_a_400(alice: Client, bad: str) -> None:
    refused = pay(alice, key=bad)
    assert (refused.status_code, code_of(refused)) == (400, "INVALID_IDEMPOTENCY_KEY")
    assert paid() == 0


def test_the_longest_key_is_taken(alice: Client) -> None:
    pay(alice, key="~" * 255)
    assert pay(alice, key="~" * 255).headers["Idempotent-Replayed"] == "true"


def test_a_body_that_django_does_not_read_is_too_large(api: Any, alice: Client, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    body = {"amount": "1", "destination": "x" * 1000}
    reply = api(alice).post("/account/payouts", body, headers={"Idempotency-Key": "one"})

    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert not StoredReply.objects.exists()


def test_an_error_frees_the_key(alice: Client) -> None:
    assert pay(alice, tokens=11).status_code == 402
    assert not StoredReply.objects.exists()
    assert pay(alice, tokens=3).status_code == 201


def test_an_error_that_is_answered_undoes_everything(alice: Client, hook: Callable[..., None]) -> None:
    def refuse() -> None:
        raise InvalidRequest("Too late.")

    hook("after_paying", refuse)
    assert pay(alice).status_code == 400
    assert (paid(), StoredReply.objects.count()) == (0, 0)


def test_a_reply_that_is_too_large_is_not_repeated_and_neither_is_its_effect(
    alice: Client, settings: Any
) -> None:
    settings.IDEMPOTENCY_MAX_REPLY_BYTES = 5
    assert pay(alice).status_code == 201
    refused = pay(alice)
    assert (refused.status_code, code_of(refused)) == (409, "IDEMPOTENCY_REPLY_NOT_KEPT")
    assert paid() == 1


def test_a_key_that_the_hot_path_works_on_is_in_use(alice: Client) -> None:
    pay(alice)
    StoredReply.objects.update(status=None)
    refused = pay(alice)
    assert (refused.status_code, code_of(refused)) == (409, "IDEMPOTENCY_KEY_IN_USE")
    assert int(refused.headers["Retry-After"]) >= 1


def test_replies_are_deleted_when_their_life_is_over(alice: Client) -> None:
    pay(alice)
    assert tasks.sweep_replies() == 0
    StoredReply.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert tasks.sweep_replies() == 1
    assert pay(alice).status_code == 201
    assert paid() == 2


def test_a_transfer_is_made_once(api: Any, alice: Client) -> None:
    def send(amount: str, key: str = "rent") -> Any:
        body = {"recipient": "charlie", "amount": amount, "memo": "rent"}
        return api(alice).post("/account/transfer", body, headers={"Idempotency-Key": key})

    first, again, other = send("2"), send("2"), send("3")
    assert (first.status_code, again.status_code, other.status_code) == (200, 200, 409)
    assert (again.content, again.headers["Idempotent-Replayed"]) == (first.content, "true")
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert paid() == 1
    refused = send("100", key="too much")
    assert (refused.status_code, StoredReply.objects.count()) == (402, 1)
    assert send("1", key="too much").status_code == 200


def test_a_transfer_by_an_api_key_is_made_once_within_its_budget(alice: Client) -> None:
    api = APIClient()
    api.credentials(HTTP_AUTHORIZATION=f"Bearer {keys.create(alice, name='k').key}")
    body = {"recipient": "charlie", "amount": "2"}
    replies = [
        api.post("/account/transfer", body, headers={"Idempotency-Key": "rent"}, format="json")
        for _ in range(3)
    ]
    assert {(reply.status_code, reply.content) for reply in replies} == {(200, replies[0].content)}
    assert (paid(), Hold.objects.filter(ended_at=None).count()) == (1, 0)


def test_a_payout_is_asked_for_once(api: Any, alice: Client) -> None:
    ledger.transfer(
        source=ledger.account(None, AccountKind.GRANTS),
        destination=ledger.account(alice.pk, AccountKind.EARNED),
        amount=10 * money.TOKEN,
        reference="earned",
        kind=TransferKind.GRANT,
    )

    def ask(amount: str) -> Any:
        body = {"amount": amount, "destination": "0x" + "ab" * 20}
        return api(alice).post("/account/payouts", body, headers={"Idempotency-Key": "june"})

    assert ask("11").status_code == 402
    first, again, other = ask("2"), ask("2"), ask("3")
    assert (first.status_code, again.status_code, other.status_code) == (201, 201, 409)
    assert (again.content, again.headers["Idempotent-Replayed"]) == (first.content, "true")
    assert Payout.objects.count() == 1


@pytest.mark.django_db(transaction=True)
class TestTwoAtOnce:
    """The second waits for the first, and does what is left to do."""

    @staticmethod
    def together(alice: Client, hook: Callable[..., None], *, first_fails: bool) -> list[HttpResponseBase]:
        at_work, go_on, calls = threading.Event(), threading.Event(), []

        def pause() -> None:
            calls.append(threading.current_thread().name)
            if len(calls) == 1:
                at_work.set()
                go_on.wait(5)
                if first_fails:
                    raise InvalidRequest("No.")

        hook("after_paying", pause)
        replies: list[HttpResponseBase] = []

        def send() -> None:
            try:
                replies.append(pay(alice))
            finally:
                connection.close()

        threads = [threading.Thread(target=send) for _ in range(4)]
        threads[0].start()
        assert at_work.wait(5)
        for thread in threads[1:]:
            thread.start()
        threads[1].join(0.3)
        assert (threads[1].is_alive(), len(replies)) == (True, 0)
        go_on.set()
        for thread in threads:
            thread.join()
        return replies

    def test_all_get_the_reply_of_the_first(self, alice: Client, hook: Callable[..., None]) -> None:
        replies = self.together(alice, hook, first_fails=False)
        assert {reply.status_code for reply in replies} == {201}
        assert len({reply.content for reply in replies}) == 1  # type: ignore[attr-defined]
        assert paid() == 1

    def test_the_next_one_goes_on_where_the_first_failed(
        self, alice: Client, hook: Callable[..., None]
    ) -> None:
        replies = self.together(alice, hook, first_fails=True)
        assert sorted(reply.status_code for reply in replies) == [201, 201, 201, 400]
        assert paid() == 1

    def test_a_crash_leaves_neither_the_effect_nor_the_key(
        self, alice: Client, hook: Callable[..., None]
    ) -> None:
        def die() -> None:
            with transaction.get_connection().cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        hook("after_paying", die)
        assert pay(alice).status_code == 503  # nobody could be told whether it was carried out
        connection.close()
        assert (paid(), StoredReply.objects.count()) == (0, 0)
        hook("after_paying", lambda: None)
        assert pay(alice).status_code == 201
        assert idempotency.sweep(now=timezone.now()) == 0
