"""The operators' pages about money."""

import re
from datetime import timedelta

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client as Browser
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from clients import keys, ledger, payouts, terms
from clients.models import (
    AccountKind,
    Allowance,
    AuditEntry,
    Hold,
    Payout,
    Terms,
    Transfer,
    TransferKind,
)
from inference.models import Inference
from marketplace.money import TOKEN

NOW = timezone.now()


def enter(person):
    found = Browser()
    found.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
    return found


@pytest.fixture
def browser(operator):
    return enter(operator)


@pytest.fixture
def clerk(charlie):
    """Somebody of the staff who may see all of it and do nothing."""
    charlie.is_staff = True
    charlie.save()
    charlie.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    return enter(charlie)


@pytest.fixture
def act(browser):
    """Run an action on rows of a list, as the list's form does."""

    def run(model, action, rows, **more):
        body = {"action": action, ACTION_CHECKBOX_NAME: [row.pk for row in rows]} | more
        return browser.post(f"/admin/clients/{model}/", body, follow=True)

    return run


@pytest.fixture
def pay(alice, bob, fund):
    """alice pays bob for a request: 5 tokens, one of them the fee."""

    def one(number=1, tokens=5):
        reference = f"inference:{number}"
        ledger.hold(reference=reference, client_id=alice.pk, amount=tokens * TOKEN)
        ledger.settle(
            reference=reference,
            amount=tokens * TOKEN,
            fee=TOKEN,
            payee_id=bob.pk,
            kind=TransferKind.INFERENCE,
            memo="A long answer.",
        )
        return Transfer.objects.get(reference=reference)

    fund(alice, 100)
    return one


@pytest.fixture
def wallet(alice):
    return ledger.account(alice.pk, AccountKind.SPENDABLE)


def has(person, kind=AccountKind.SPENDABLE):
    return ledger.balance(ledger.account(person.pk, kind)) / TOKEN


def audited():
    return [(entry.action, entry.reason) for entry in AuditEntry.objects.order_by("id")]


def text_of(reply):
    assert reply.status_code == 200
    return reply.content.decode()


def hold_of(person, reference="inference:99", tokens=3, age=timedelta(0)):
    ledger.hold(reference=reference, client_id=person.pk, amount=tokens * TOKEN)
    Hold.objects.filter(pk=reference).update(created_at=timezone.now() - age)
    return Hold.objects.get(pk=reference)


# --- All pages --------------------------------------------------------------------------------------------


@pytest.fixture
def everything(pay, alice, bob, operator, wallet):
    """One row at least of each kind: the admin's path of it."""
    paid = pay()
    ledger.reverse(paid, reason="Wrong.", by_id=operator.pk)
    told = terms.change(by=operator, reason="A share.", fee_bps=250, max_input_price=7 * TOKEN)
    hold = hold_of(alice)
    payout = Payout.objects.create(client=bob, amount=TOKEN, destination="0x1")
    rows = {
        "account": wallet, "transfer": paid, "hold": hold, "payout": payout, "terms": told,
        "auditentry": AuditEntry.objects.get(),
    }  # fmt: skip
    return {name: row.pk for name, row in rows.items()}


PAGES = ["account", "transfer", "hold", "payout", "terms", "auditentry"]


@pytest.mark.parametrize("name", PAGES)
def test_every_list_and_row_opens_and_shows_tokens_never_base_units(browser, clerk, everything, name):
    quoted = str(everything[name]).replace(":", "_3A")
    for path in ("", "?q=alice", "?q=acc_1", "?q=💥", f"{quoted}/change/"):
        for who in (browser, clerk):
            page = text_of(who.get(f"/admin/clients/{name}/{path}"))
            assert not re.search(
                r"\d{16}", re.sub(r"<script.*?</script>|<svg.*?</svg>", "", page, flags=re.S)
            )


@pytest.mark.parametrize("name", PAGES)
def test_a_row_is_neither_changed_nor_deleted_nor_added(browser, everything, name):
    quoted = str(everything[name]).replace(":", "_3A")
    path = f"/admin/clients/{name}"
    assert browser.post(f"{path}/{quoted}/change/", {"memo": "x", "amount": "1"}).status_code == 403
    assert browser.post(f"{path}/{quoted}/delete/", {"post": "yes"}).status_code == 403
    assert name == "terms" or browser.get(f"{path}/add/").status_code == 403
    assert "delete_selected" not in text_of(browser.get(f"{path}/"))


@pytest.mark.parametrize("name", PAGES)
def test_who_has_no_permission_does_not_get_in(charlie, everything, name):
    charlie.is_staff = True
    charlie.save()
    quoted = str(everything[name]).replace(":", "_3A")
    for path in (f"/admin/clients/{name}/", f"/admin/clients/{name}/{quoted}/change/"):
        assert enter(charlie).get(path).status_code == 403
    assert "/admin/clients/transfer/" not in text_of(enter(charlie).get("/admin/"))


@pytest.mark.parametrize("name", PAGES)
def test_others_do_not_come_in(alice, everything, name):
    assert enter(alice).get(f"/admin/clients/{name}/").status_code == 302


def test_who_may_only_look_does_nothing(clerk, pay, alice, bob, fund):
    paid, hold = pay(), hold_of(alice)
    fund(bob, 5, kind="earned")
    payout = payouts.request(bob, amount=TOKEN, destination="0x1")
    key = keys.create(alice, name="k").row
    reason = {"reason": "Because.", "amount": "1", "token": "0" * 32}
    for path in (
        f"transfer/{paid.pk}/give-back/",
        f"hold/{hold.pk.replace(':', '_3A')}/release/",
        f"payout/{payout.pk}/pay/",
        f"payout/{payout.pk}/refuse/",
        f"client/{alice.pk}/give-credit/",
        f"client/{alice.pk}/limits/",
        f"apikey/{key.pk}/limits/",
        "terms/freeze-payouts/",
        "terms/unfreeze-payouts/",
        "terms/add/",
    ):
        assert clerk.post(f"/admin/clients/{path}", reason).status_code == 403, path
        assert clerk.get(f"/admin/clients/{path}").status_code == 403, path
    for model, action, row in (
        ("transfer", "reverse", paid),
        ("hold", "release", hold),
        ("payout", "pay", payout),
        ("payout", "refuse", payout),
    ):
        clerk.post(f"/admin/clients/{model}/", {"action": action, ACTION_CHECKBOX_NAME: [row.pk], **reason})
    assert (Transfer.objects.filter(kind="reversal").count(), Terms.objects.count(), audited()) == (0, 0, [])
    assert Hold.objects.filter(ended_at=None).count() == 2


def test_lists_take_few_queries_however_long(browser, pay, alice, bob, fund, django_assert_max_num_queries):
    for number in range(30):
        pay(number=number + 1, tokens=2)
        hold_of(alice, reference=f"inference:{number + 100}", tokens=1)
        fund(bob, 1, kind="earned")
    for number in range(15):
        payouts.request(bob, amount=TOKEN + number, destination="0x1")
    earned = ledger.account(bob.pk, AccountKind.EARNED)
    paths = [*PAGES, f"account/{earned.pk}/change", f"client/{alice.pk}/change"]
    for path in paths:
        with django_assert_max_num_queries(26):
            text_of(browser.get(f"/admin/clients/{path}/"))


def test_lists_of_many_rows_count_nothing(browser, pay, alice):
    pay(), hold_of(alice)
    for name in ("account", "transfer", "hold", "auditentry"):
        with CaptureQueriesContext(connection) as queries:
            browser.get(f"/admin/clients/{name}/")
        counted = [q["sql"] for q in queries if "COUNT(" in q["sql"] and f'"clients_{name}"' in q["sql"]]
        assert not counted


# --- Accounts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", ["alice", "ALICE@example.com", "acc_", ""])
def test_an_account_is_found(browser, pay, wallet, term):
    term = wallet.name if term == "acc_" else term
    assert f"/account/{wallet.pk}/change/" in text_of(browser.get("/admin/clients/account/", {"q": term}))


def test_the_list_shows_what_is_in_stripes_too(browser, pay, bob):
    pay()
    page = text_of(browser.get("/admin/clients/account/", {"q": "bob"}))
    assert "4 OMNIT" in page


def test_a_statement_shows_what_was_held_after_each_entry(browser, pay, wallet, alice):
    pay(1), pay(2)
    hold_of(alice)
    page = browser.get(f"/admin/clients/account/{wallet.pk}/change/")
    held = [row[2:4] for row in page.context["statement"]["rows"]]
    assert held == [["-5 OMNIT", "90 OMNIT"], ["-5 OMNIT", "95 OMNIT"], ["100 OMNIT", "100 OMNIT"]]
    assert "inference:99" in text_of(page)
    assert "87 OMNIT" in text_of(page)  # spendable


@pytest.mark.parametrize("kind", ["fees", "earned", "spendable", "outside"])
def test_each_page_of_a_statement_goes_on_where_the_last_ended(browser, pay, alice, bob, monkeypatch, kind):
    monkeypatch.setattr("clients.admin.accounts.PAGE", 3)
    for number in range(4):
        pay(number + 1)
    owner = {"earned": bob.pk, "spendable": alice.pk}.get(kind)
    path = f"/admin/clients/account/{ledger.account(owner, AccountKind(kind)).pk}/change/"
    first, second = browser.get(path), browser.get(path, {"p": 2})
    rows = first.context["statement"]["rows"]
    if first.context["page"].paginator.num_pages > 1:
        rows = rows + second.context["statement"]["rows"]
    amounts = [int(row[2].split()[0]) for row in rows]
    after = [int(row[3].split()[0]) for row in rows]
    assert after == [sum(amounts[index:]) for index in range(len(amounts))]
    assert after[0] == ledger.balance(ledger.account(owner, AccountKind(kind))) / TOKEN


@pytest.mark.parametrize("page", ["x", "0", "-1", "99999999999999999999"])
def test_an_odd_page_of_a_statement_is_some_page(browser, pay, wallet, page):
    text_of(browser.get(f"/admin/clients/account/{wallet.pk}/change/", {"p": page}))


def test_a_statement_is_downloaded(browser, clerk, pay, wallet, charlie, alice):
    pay()
    ledger.transfer(
        source=wallet,
        destination=ledger.account(charlie.pk, AccountKind.SPENDABLE),
        amount=TOKEN,
        reference="t:1",
        kind=TransferKind.TRANSFER,
        memo="=1+1",
    )
    reply = clerk.get(f"/admin/clients/account/{wallet.pk}/statement.csv/")
    lines = b"".join(reply.streaming_content).decode().splitlines()
    assert reply["Content-Disposition"] == f'attachment; filename="{wallet.name}.csv"'
    assert lines[0].startswith("at,kind,amount,fee,currency,counterparty,owner,reference,memo")
    assert ",transfer,-1,0,OMNIT," in lines[1]
    assert lines[1].endswith("charlie spendable,t:1,'=1+1")
    assert ",inference,-5,1,OMNIT," in lines[2]
    assert len(lines) == 4


@pytest.mark.parametrize("path", ["999999/statement.csv/", "x/statement.csv/", "x/give-credit/"])
def test_an_account_that_is_not_there_is_not_found(browser, path):
    assert browser.get(f"/admin/clients/account/{path}").status_code in (403, 404)


# --- Transfers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", [{"q": "inference:1"}, {"q": "alice"}, {"kind__exact": "inference"}])
def test_a_transfer_is_found(browser, pay, query):
    pay()
    assert "A long answer." in text_of(browser.get("/admin/clients/transfer/", query))


def test_a_search_leaves_out_the_rest(browser, pay):
    pay()
    for query in ({"q": "inference:2"}, {"q": "nothing"}, {"kind__exact": "payout"}):
        assert "A long answer." not in text_of(browser.get("/admin/clients/transfer/", query))


def test_a_transfer_is_given_back_with_a_reason(books, act, pay, alice):
    paid = pay()
    assert 'name="reason"' in text_of(act("transfer", "reverse", [paid]))
    assert has(alice) == 95
    act("transfer", "reverse", [paid], reason=" ")
    assert has(alice) == 95
    page = text_of(act("transfer", "reverse", [paid], reason="Wrong answers."))
    assert "5 OMNIT went back to alice spendable." in page
    assert has(alice) == 100
    assert audited() == [("reverse_transfer", "Wrong answers.")]
    assert "given back already" in text_of(act("transfer", "reverse", [paid], reason="Again."))
    assert len(audited()) == 1


def test_the_two_halves_of_a_reversal_name_each_other(browser, pay, operator):
    paid = pay()
    back = ledger.reverse(paid, reason="Wrong.", by_id=operator.pk)
    assert f"/transfer/{back.pk}/change/" in text_of(
        browser.get(f"/admin/clients/transfer/{paid.pk}/change/")
    )
    assert f"/transfer/{paid.pk}/change/" in text_of(
        browser.get(f"/admin/clients/transfer/{back.pk}/change/")
    )


def test_one_is_given_back_on_its_own_page(browser, pay, alice):
    path = f"/admin/clients/transfer/{pay().pk}/give-back/"
    assert path in text_of(browser.get(path.replace("give-back", "change")))
    assert 'name="reason"' in text_of(browser.get(path))
    assert has(alice) == 95
    assert "went back" in text_of(browser.post(path, {"reason": "Wrong answers."}, follow=True))
    assert has(alice) == 100


def test_credit_is_offered_where_the_payee_has_too_little(browser, act, pay, alice, bob, charlie):
    paid = pay()
    ledger.transfer(
        source=ledger.account(bob.pk, AccountKind.EARNED),
        destination=ledger.account(charlie.pk, AccountKind.SPENDABLE),
        amount=TOKEN,
        reference="t:1",
        kind=TransferKind.TRANSFER,
    )
    page = text_of(act("transfer", "reverse", [paid], reason="Wrong answers."))
    offered = f"/admin/clients/client/{alice.pk}/give-credit/?instead_of={paid.pk}"
    assert "no longer has what this paid: 4 are to go back and 3 OMNIT are free" in page
    assert offered in page
    assert (has(alice), audited()) == (95, [])
    form = browser.get(offered).context["form"]
    assert form["amount"].value() == "5"
    body = {"amount": "5", "reason": "Instead.", "token": form["token"].value()}
    for _ in range(2):
        browser.post(offered, body)
    assert has(alice) == 100
    assert audited() == [("grant", "Instead.")]


# --- Credit -----------------------------------------------------------------------------------------------


def test_credit_is_given_once_however_often_the_button_is_pressed(books, browser, alice):
    path = f"/admin/clients/client/{alice.pk}/give-credit/"
    assert path in text_of(browser.get(f"/admin/clients/client/{alice.pk}/change/"))
    token = browser.get(path).context["form"]["token"].value()
    for _ in range(2):
        page = text_of(
            browser.post(path, {"amount": "2.5", "reason": "Welcome.", "token": token}, follow=True)
        )
    assert "alice has 2.5 OMNIT more" in page
    assert has(alice) == 2.5
    assert audited() == [("grant", "Welcome.")]
    given = Transfer.objects.get()
    assert (given.kind, given.memo, given.by.username) == ("grant", "Welcome.", "operator")


@pytest.mark.parametrize("amount", ["", "0", "-1", "1e400", "nan", "0.0000000000000000001", "x", "9" * 90])
def test_an_odd_amount_is_a_form_error(browser, alice, amount):
    path = f"/admin/clients/client/{alice.pk}/give-credit/"
    body = {
        "amount": amount,
        "reason": "Welcome.",
        "token": browser.get(path).context["form"]["token"].value(),
    }
    reply = browser.post(path, body)
    assert reply.context["form"].errors["amount"]
    assert not Transfer.objects.exists()


def test_a_token_that_was_used_for_something_else_is_said(browser, alice, bob):
    body = {"amount": "1", "reason": "Welcome.", "token": "1" * 32}
    browser.post(f"/admin/clients/client/{alice.pk}/give-credit/", body)
    page = text_of(browser.post(f"/admin/clients/client/{bob.pk}/give-credit/", body, follow=True))
    assert "Another movement of money has this reference already." in page
    assert len(audited()) == 1


def test_an_accounts_page_leads_to_giving_credit(browser, wallet, alice):
    path = f"/admin/clients/account/{wallet.pk}/give-credit/"
    assert browser.get(path).url == f"/admin/clients/client/{alice.pk}/give-credit/"
    fees = ledger.account(None, AccountKind.FEES)
    assert browser.get(f"/admin/clients/account/{fees.pk}/give-credit/").status_code == 403
    assert "give-credit" not in text_of(browser.get(f"/admin/clients/account/{fees.pk}/change/"))


# --- Holds ------------------------------------------------------------------------------------------------


def request_of(person, status):
    return Inference.objects.create(
        client=person, face="/inference/", kind="chat", desired_model="toy", status=status
    )


def test_open_holds_come_oldest_first_and_say_what_is_late(browser, alice, fund):
    fund(alice, 100)
    failed, running = request_of(alice, "failed"), request_of(alice, "running")
    hold_of(alice, f"inference:{running.pk}", age=timedelta(seconds=5))
    hold_of(alice, f"inference:{failed.pk}", age=timedelta(hours=2))
    hold_of(alice, "inference:998", age=timedelta(minutes=10))
    ended = hold_of(alice, "training:1", age=timedelta(days=2))
    ledger.release(ended.pk)
    page = browser.get("/admin/clients/hold/")
    rows = page.context["cl"].result_list
    findings = [(row.pk, row.finding.says, row.finding.late) for row in rows]
    assert findings == [
        (f"inference:{failed.pk}", "failed", True),
        ("inference:998", "no record", True),
        (f"inference:{running.pk}", "running", False),
    ]
    assert "overdue" in text_of(page)
    assert f"/admin/inference/inference/{failed.pk}/change/" in text_of(page)
    assert [row.pk for row in browser.get("/admin/clients/hold/?state=ended").context["cl"].result_list] == [
        ended.pk
    ]
    everything = browser.get("/admin/clients/hold/?state=all").context["cl"].result_list
    assert [row.pk for row in everything] == [*(pk for pk, _, _ in findings), ended.pk]
    older = browser.get("/admin/clients/hold/?older=1h").context["cl"].result_list
    assert [row.pk for row in older] == [f"inference:{failed.pk}"]


def test_a_hold_is_released_by_hand_once_what_it_was_for_has_ended(books, act, alice, fund):
    fund(alice, 10)
    hold = hold_of(alice, f"inference:{request_of(alice, 'failed').pk}")
    assert 'name="reason"' in text_of(act("hold", "release", [hold]))
    assert "are free again" in text_of(act("hold", "release", [hold], reason="Stuck."))
    account = ledger.account(alice.pk, AccountKind.SPENDABLE)
    account.refresh_from_db()
    assert account.held == 0
    assert audited() == [("release_hold", "Stuck.")]
    assert AuditEntry.objects.get().details["freed"] == "3"
    act("hold", "release", [hold], reason="Again.")
    assert len(audited()) == 1


@pytest.mark.parametrize("what", ["running", "new", "unknown"])
def test_a_hold_that_may_be_needed_is_not_released(books, browser, alice, fund, what):
    fund(alice, 10)
    reference, age = {
        "running": (f"inference:{request_of(alice, 'running').pk}", timedelta(days=1)),
        "new": ("inference:998", timedelta(0)),
        "unknown": ("training:7", timedelta(days=1)),
    }[what]
    hold = hold_of(alice, reference, age=age)
    path = f"/admin/clients/hold/{reference.replace(':', '_3A')}/release/"
    page = text_of(browser.post(path, {"reason": "Stuck."}, follow=True))
    assert "has not ended" in page
    hold.refresh_from_db()
    assert (hold.ended_at, audited()) == (None, [])


# --- Payouts ----------------------------------------------------------------------------------------------


@pytest.fixture
def asked(bob, fund):
    fund(bob, 10, kind="earned")
    return [payouts.request(bob, amount=number * TOKEN, destination="0xabc") for number in (1, 2)]


def test_payouts_that_wait_come_first_the_oldest_on_top(browser, asked, bob, operator):
    payouts.refuse(asked[0], by=operator, reason="No.", now=NOW)
    third = payouts.request(bob, amount=TOKEN, destination="0xabc")
    rows = browser.get("/admin/clients/payout/").context["cl"].result_list
    assert [row.pk for row in rows] == [asked[1].pk, third.pk, asked[0].pk]


def test_a_payout_is_paid_with_a_note(books, act, asked, bob):
    assert 'name="reason"' in text_of(act("payout", "pay", asked))
    page = text_of(act("payout", "pay", asked, reason="Bank 17."))
    assert "2 OMNIT for bob: paid." in page
    assert has(bob, AccountKind.EARNED) == 7
    assert {payout.reason for payout in Payout.objects.all()} == {"Bank 17."}
    assert audited() == [("pay_payout", "Bank 17.")] * 2
    assert "already" in text_of(act("payout", "pay", asked, reason="Again."))
    assert has(bob, AccountKind.EARNED) == 7


def test_a_payout_is_refused_with_a_reason_on_its_own_page(books, browser, asked, bob):
    path = f"/admin/clients/payout/{asked[0].pk}/refuse/"
    assert path in text_of(browser.get(path.replace("refuse", "change")))
    browser.post(path, {"reason": "No such wallet."})
    assert Payout.objects.get(pk=asked[0].pk).status == "refused"
    assert audited() == [("refuse_payout", "No such wallet.")]


def test_nothing_is_paid_while_payouts_are_frozen_and_the_pages_say_so(books, act, browser, asked, operator):
    terms.change(by=operator, reason="We are looking into something.", payouts_frozen=True)
    for path in ("", f"{asked[0].pk}/change/"):
        page = text_of(browser.get(f"/admin/clients/payout/{path}"))
        assert "Payouts are frozen" in page
        assert "We are looking into something." in page
    assert "Payouts are frozen at the moment." in text_of(act("payout", "pay", asked, reason="Bank 17."))
    assert set(Payout.objects.values_list("status", flat=True)) == {"requested"}
    act("payout", "refuse", asked, reason="No such wallet.")
    assert set(Payout.objects.values_list("status", flat=True)) == {"refused"}


# --- Terms ------------------------------------------------------------------------------------------------


@pytest.fixture
def form(browser):
    """`form(fee_bps=5)`: send the page that changes the terms, with what it shows and these changes."""

    def send(**changes):
        fields = browser.get("/admin/clients/terms/add/").context["adminform"].form
        body = {name: fields[name].value() for name in fields.fields}
        body = {name: value for name, value in body.items() if value is not None and value is not False}
        return browser.post("/admin/clients/terms/add/", body | {"reason": "Why not."} | changes)

    return send


def test_the_terms_are_changed_by_a_new_row(form, operator):
    terms.change(by=operator, reason="A start.", fee_bps=100, default_input_price=TOKEN)
    reply = form(fee_bps="250", max_output_price="7.5", reason="A share.")
    assert reply.status_code == 302
    now = terms.current()
    assert (now.fee_bps, now.default_input_price, now.max_output_price) == (
        250,
        TOKEN,
        7_500_000_000_000_000_000,
    )
    assert (now.reason, now.by, Terms.objects.count()) == ("A share.", operator, 2)
    entry = AuditEntry.objects.first()
    assert (entry.action, entry.reason) == ("change_terms", "A share.")
    assert entry.details == {"fee_bps": [100, 250], "max_output_price": [None, "7.5"]}


def test_the_first_terms_are_set(form):
    assert form(fee_bps="100").status_code == 302
    assert terms.current().fee_bps == 100


def test_a_limit_is_taken_away(form, operator):
    terms.change(by=operator, reason="A start.", max_output_price=TOKEN)
    assert form(max_output_price="").status_code == 302
    assert terms.current().max_output_price is None


@pytest.mark.parametrize(
    "changes",
    [
        {"fee_bps": "10001"},
        {"fee_bps": "-1"},
        {"fee_bps": ""},
        {"default_input_price": "-1"},
        {"default_input_price": ""},
        {"max_hour_price": "x"},
        {"min_hour_price": "2", "max_hour_price": "1"},
        {"reason": ""},
        {"fee_bps": "5", "based_on": "77"},
        {},
    ],
)
def test_terms_that_make_no_sense_are_a_form_error(form, changes):
    reply = form(**({"fee_bps": "5"} | changes if changes else {}))
    assert reply.status_code == 200
    assert reply.context["adminform"].form.errors
    assert not Terms.objects.exists()


def test_payouts_are_frozen_and_unfrozen_with_a_reason(browser):
    page = text_of(browser.get("/admin/clients/terms/"))
    assert "freeze-payouts/" in page
    assert "unfreeze-payouts/" not in page
    assert 'name="reason"' in text_of(browser.get("/admin/clients/terms/freeze-payouts/"))
    assert not Terms.objects.exists()
    for _ in range(2):
        page = text_of(
            browser.post("/admin/clients/terms/freeze-payouts/", {"reason": "Odd transfers."}, follow=True)
        )
    assert "unfreeze-payouts/" in page
    assert "Payouts are frozen already." in page
    assert terms.current().payouts_frozen
    browser.post("/admin/clients/terms/unfreeze-payouts/", {"reason": "All is well."})
    assert not terms.current().payouts_frozen
    assert audited() == [("change_terms", "Odd transfers."), ("change_terms", "All is well.")]


# --- Limits -----------------------------------------------------------------------------------------------


def test_the_limits_of_an_account_are_changed_with_a_reason(browser, alice):
    path = f"/admin/clients/client/{alice.pk}/limits/"
    assert path in text_of(browser.get(f"/admin/clients/client/{alice.pk}/change/"))
    body = {"budget_day": "2.5", "requests_per_minute": "60", "reason": "She asked for it."}
    assert browser.post(path, body).status_code == 302
    allowance = Allowance.objects.get(client=alice, api_key=None)
    assert (allowance.budget_day, allowance.requests_per_minute) == (2_500_000_000_000_000_000, 60)
    assert audited() == [("change_limits", "She asked for it.")]
    assert AuditEntry.objects.get().details == {
        "budget_day": ["no limit", "2.5 OMNIT"],
        "requests_per_minute": ["no limit", 60],
    }
    page = text_of(browser.get(f"/admin/clients/client/{alice.pk}/change/"))
    assert "Budget per day (UTC): 0 OMNIT of 2.5 OMNIT used" in page


def test_the_limits_of_a_key_say_what_is_used_and_keep_it(browser, alice, fund):
    fund(alice, 10)
    key = keys.create(alice, name="k", budget_total=5 * TOKEN, budget_day=5 * TOKEN).row
    ledger.hold(reference="inference:5", client_id=alice.pk, amount=2 * TOKEN, api_key_id=key.pk)
    page = text_of(browser.get(f"/admin/clients/apikey/{key.pk}/change/"))
    assert "Budget altogether: 2 OMNIT of 5 OMNIT used" in page
    path = f"/admin/clients/apikey/{key.pk}/limits/"
    form = browser.get(path)
    assert "2 OMNIT today" in text_of(form)
    assert form.context["form"]["budget_total"].value() == "5"
    browser.post(path, {"budget_total": "3", "reason": "Too much."})
    allowance = Allowance.objects.get(api_key=key)
    assert (allowance.budget_total, allowance.budget_day, allowance.total_used) == (
        3 * TOKEN,
        None,
        2 * TOKEN,
    )
    assert audited() == [("change_limits", "Too much.")]


@pytest.mark.parametrize(
    "body", [{"budget_day": "-1"}, {"concurrency": "0"}, {"concurrency": str(2**31)}, {"reason": ""}]
)
def test_odd_limits_are_a_form_error(browser, alice, body):
    reply = browser.post(f"/admin/clients/client/{alice.pk}/limits/", {"reason": "Why not."} | body)
    assert reply.status_code == 200
    assert not Allowance.objects.exists()


def test_limits_that_stay_leave_no_trace(browser, alice):
    browser.post(f"/admin/clients/client/{alice.pk}/limits/", {"reason": "Why not."})
    assert audited() == []


# --- Audit ------------------------------------------------------------------------------------------------


def test_the_audit_is_searched_and_filtered(browser, operator, alice):
    terms.change(by=operator, reason="A share.", fee_bps=250)
    browser.post(f"/admin/clients/client/{alice.pk}/limits/", {"concurrency": "3", "reason": "Too many."})
    path = "/admin/clients/auditentry/"
    page = text_of(browser.get(path))
    assert "A share." in page
    assert "fee_bps: 0 → 250" in page
    for query in ({"action": "change_limits"}, {"q": "alice"}):
        page = text_of(browser.get(path, query))
        assert "Too many." in page
        assert "A share." not in page
    assert "A share." in text_of(browser.get(path, {"by__id__exact": operator.pk}))
    assert "A share." not in text_of(browser.get(path, {"by__id__exact": alice.pk}))
