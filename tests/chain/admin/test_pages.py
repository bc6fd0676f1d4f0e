"""Every page about chains: who sees it, that nothing is changed by it, and how many queries it takes."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db import connection
from django.test.utils import CaptureQueriesContext

from chain.models import Network, Purpose
from tests.chain.admin import made
from tests.chain.admin.conftest import audited, enter, text_of

PAGES = [
    *(
        "network",
        "source",
        "task",
        "response",
        "fulfilment",
        "service",
        "transaction",
        "deposit",
        "withdrawal",
    ),
    *("taskorder", "sourceorder", "pin", "publishedroot", "reconciliation", "log"),
]


def pk(everything: SimpleNamespace, name: str) -> Any:
    return getattr(everything, name).pk


@pytest.mark.parametrize("name", PAGES)
def test_every_list_and_row_opens_and_shows_tokens_never_base_units(
    browser: Any, clerk: Any, everything: SimpleNamespace, name: str
) -> None:
    for path in ("", "?q=alice", "?q=1", "?q=💥", f"?q=0x{'ab' * 20}", f"{pk(everything, name)}/change/"):
        for who in (browser, clerk):
            page = text_of(who.get(f"/admin/chain/{name}/{path}"))
            assert not re.search(
                r"\d{17}", re.sub(r"<script.*?</script>|0x[0-9a-fA-F]+|bafkrei\w+", "", page, flags=re.S)
            )


@pytest.mark.parametrize("name", PAGES)
def test_a_row_is_neither_changed_nor_deleted_nor_added(
    browser: Any, everything: SimpleNamespace, name: str
) -> None:
    path, key = f"/admin/chain/{name}", pk(everything, name)
    said = {"status": "confirmed", "amount": "1", "reason": "x", "balance": "0", "is_paused": "on"}
    assert browser.post(f"{path}/{key}/change/", said).status_code == 403
    assert browser.post(f"{path}/{key}/delete/", {"post": "yes"}).status_code == 403
    assert browser.get(f"{path}/add/").status_code == 403
    assert "delete_selected" not in text_of(browser.get(f"{path}/"))


@pytest.mark.parametrize("name", PAGES)
def test_who_has_no_permission_does_not_get_in(
    charlie: Any, alice: Any, everything: SimpleNamespace, name: str
) -> None:
    assert enter(alice).get(f"/admin/chain/{name}/").status_code == 302
    charlie.is_staff = True
    charlie.save()
    for path in (f"/admin/chain/{name}/", f"/admin/chain/{name}/{pk(everything, name)}/change/"):
        assert enter(charlie).get(path).status_code == 403
    assert f"/admin/chain/{name}/" not in text_of(enter(charlie).get("/admin/"))


def test_the_sidebar_leads_to_all_of_them(browser: Any) -> None:
    page = text_of(browser.get("/admin/"))
    for name in PAGES:
        assert f'href="/admin/chain/{name}/"' in page


ACTIONS = [
    *[("network", name) for name in ("pause", "resume")],
    *[("fulfilment", name) for name in ("try-now", "give-up")],
    *[("service", name) for name in ("serve", "refuse")],
    *[("transaction", name) for name in ("retry", "bump", "cancel")],
    *[("deposit", name) for name in ("assign",)],
    *[("withdrawal", name) for name in ("approve", "refuse")],
    *[("pin", name) for name in ("drop",)],
]


@pytest.mark.parametrize(("name", "action"), ACTIONS)
def test_who_may_only_look_does_nothing(
    clerk: Any, everything: SimpleNamespace, name: str, action: str
) -> None:
    row = getattr(everything, name)
    before = type(row).objects.filter(pk=row.pk).values().get()
    path = f"/admin/chain/{name}/{row.pk}/{action}/"
    said = {"reason": "Because.", "client": "alice", "model": ""}
    assert clerk.get(path).status_code == 403
    assert clerk.post(path, said).status_code == 403
    body = {"action": action.replace("-", "_"), ACTION_CHECKBOX_NAME: [row.pk], **said}
    clerk.post(f"/admin/chain/{name}/", body)
    assert f"/{action}/" not in text_of(clerk.get(f"/admin/chain/{name}/{row.pk}/change/"))
    assert type(row).objects.filter(pk=row.pk).values().get() == before
    assert audited() == []


@pytest.mark.parametrize(("name", "action"), ACTIONS)
def test_each_action_asks_for_a_reason_first(
    browser: Any, everything: SimpleNamespace, name: str, action: str
) -> None:
    row = getattr(everything, name)
    before = type(row).objects.filter(pk=row.pk).values().get()
    path = f"/admin/chain/{name}/{row.pk}/{action}/"
    for page in (browser.get(path), browser.post(path, {"reason": "  "})):
        assert 'name="reason"' in text_of(page)
    assert type(row).objects.filter(pk=row.pk).values().get() == before
    assert audited() == []


def test_what_was_signed_is_on_no_page(browser: Any, everything: SimpleNamespace) -> None:
    for path in (f"transaction/{pk(everything, 'transaction')}/change/", "transaction/"):
        page = text_of(browser.get(f"/admin/chain/{path}"))
        assert everything.transaction.hash in page
        assert made.SECRET[2:] not in page


# --- Many rows --------------------------------------------------------------------------------------------


@pytest.fixture
def many(everything: SimpleNamespace, network: Network, alice: Any) -> SimpleNamespace:
    """Fifty rows more of each kind, on two networks, and fifty of what hangs on one row."""
    other = made.network("other")
    for number in range(50):
        made.everything((network, other)[number % 2], alice)
        made.response(everything.task)
        made.attempt(everything.task)
        made.transaction(network, Purpose.CONFIRM, after=everything.transaction)
    return everything


def test_lists_and_pages_take_few_queries_however_long(
    browser: Any, many: SimpleNamespace, django_assert_max_num_queries: Any
) -> None:
    for name in PAGES:
        with django_assert_max_num_queries(17):
            text_of(browser.get(f"/admin/chain/{name}/"))
        with django_assert_max_num_queries(24):
            text_of(browser.get(f"/admin/chain/{name}/{pk(many, name)}/change/"))


def test_lists_of_many_rows_count_nothing(browser: Any, everything: SimpleNamespace) -> None:
    for name in PAGES[1:]:  # of networks there are a few
        with CaptureQueriesContext(connection) as queries:
            browser.get(f"/admin/chain/{name}/")
        counted = [q["sql"] for q in queries if "COUNT(" in q["sql"] and f'FROM "chain_{name}"' in q["sql"]]
        assert not counted


# --- Searching --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "term"),
    [
        *[("source", term) for term in ("address", "client", "transaction_hash", "name")],
        *[("task", term) for term in ("address", "source.address", "transaction_hash")],
        *[("response", term) for term in ("address", "task.address", "provider", "confirmed_transaction")],
        *[("fulfilment", term) for term in ("pk", "task_address", "source_address", "attempt.hash", "code")],
        *[("service", term) for term in ("source_address", "model")],
        *[("transaction", term) for term in ("reference", "hash", "nonce", "to")],
        *[("deposit", term) for term in ("pk", "sender", "transaction_hash")],
        *[("withdrawal", term) for term in ("pk", "address", "transaction.hash", "client.username")],
        *[("taskorder", term) for term in ("pk", "task_address", "owner.email")],
        *[("sourceorder", term) for term in ("pk", "source_address", "owner.username")],
        *[("pin", term) for term in ("cid",)],
        *[("publishedroot", term) for term in ("batch.root", "transaction.hash", "batch_id")],
        *[("log", term) for term in ("transaction_hash", "block_number")],
    ],
)
def test_a_row_is_found_and_no_other(
    browser: Any, alice: Any, bob: Any, network: Network, name: str, term: str
) -> None:
    others = [made.everything(network, bob) for _ in range(2)]
    wanted = made.everything(network, alice)
    type(wanted.source).objects.filter(pk=wanted.source.pk).update(name="Another")
    type(wanted.fulfilment).objects.filter(pk=wanted.fulfilment.pk).update(code="slow")
    type(wanted.service).objects.filter(pk=wanted.service.pk).update(model="tiny")
    wanted.withdrawal.transaction = wanted.transaction
    wanted.withdrawal.save()
    row = getattr(wanted, name)
    row.refresh_from_db()
    value: Any = row
    for part in term.split("."):
        value = getattr(value, part)
    for text in (str(value), f" {value} "):
        found = browser.get(f"/admin/chain/{name}/", {"q": text}).context["cl"].result_list
        assert [each.pk for each in found] == [row.pk], (text, [getattr(each, name).pk for each in others])


def test_an_address_is_found_whatever_its_letters(browser: Any, everything: SimpleNamespace) -> None:
    for text in (everything.task.address.lower(), everything.task.address.upper().replace("0X", "0x")):
        assert everything.task.address in text_of(browser.get("/admin/chain/task/", {"q": text}))


def test_a_pin_is_found_by_a_link_to_it(browser: Any, everything: SimpleNamespace) -> None:
    made.pin()
    link = f"https://m.example/ipfs/{everything.pin.cid}"
    found = browser.get("/admin/chain/pin/", {"q": link}).context["cl"].result_list
    assert [each.pk for each in found] == [everything.pin.pk]


def test_lists_are_narrowed_by_network(browser: Any, everything: SimpleNamespace, alice: Any) -> None:
    other = made.network("other")
    rows = made.everything(other, alice)
    for name in PAGES:
        if name in ("network", "pin"):
            continue
        found = (
            browser.get(f"/admin/chain/{name}/", {"network__id__exact": other.pk}).context["cl"].result_list
        )
        assert pk(rows, name) in {each.pk for each in found}
        assert {each.network_id for each in found} == {other.pk}


# --- What strangers have put on a chain -------------------------------------------------------------------


def test_long_and_hostile_texts_neither_fill_a_page_nor_act_on_it(browser: Any, network: Network) -> None:
    bad = "<script>alert(1)</script>" + "x" * 60_000
    source = made.source(
        network, "<img src=x>", metadata_url=bad, metadata={"name": bad}, optional_params_url=bad
    )
    task = made.task(source, config_url=bad, expiry_time=2**256 - 1)
    response = made.response(task, data=bad)
    fulfilment = made.fulfilment(task, config={"data": bad}, answer_url=bad)
    log = made.log(network)
    log.arguments = {"sourceParams": [bad]}
    log.save()
    for name, row in (
        *(
            ("source", source),
            ("task", task),
            ("response", response),
            ("fulfilment", fulfilment),
            ("log", log),
        ),
    ):
        for path in ("", f"{row.pk}/change/"):
            page = text_of(browser.get(f"/admin/chain/{name}/{path}"))
            assert "<script>alert" not in page
            assert "<img src=x" not in page
            assert len(page) < 200_000


def test_an_expiry_that_is_no_date_is_never(browser: Any, network: Network) -> None:
    task = made.task(made.source(network), expiry_time=2**256 - 1)
    for path in ("", f"{task.pk}/change/"):
        assert "never" in text_of(browser.get(f"/admin/chain/task/{path}"))
