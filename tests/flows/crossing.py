"""Whose money crosses between the ledger and a chain: people over HTTP, an operator in the admin; and an audit."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import psycopg2
import requests
from eth_account import Account
from eth_account.messages import encode_defunct

from marketplace.embedded import postgres
from marketplace.embedded.home import Home, place_for_services
from tests.clients import ledger_books
from tests.flows.chains import Node
from tests.flows.conftest import Marketplace, eventually

PASSWORD = "correct horse battery staple"
TIMEOUT_S = 30
# What a caller may be told while something is away.
UNAVAILABLE = 503


class Person:
    """Somebody with an account, over HTTP."""

    def __init__(self, marketplace: Marketplace, email: str, password: str) -> None:
        self.marketplace = marketplace
        self._session = requests.Session()
        said = self.post("/client/login/", {"email": email, "password": password})
        self._session.headers["Authorization"] = f"Token {said['token']}"

    @classmethod
    def register(cls, marketplace: Marketplace, name: str) -> Person:
        """Somebody new, whose name is made unique."""
        name = f"{name}-{uuid.uuid4().hex[:8]}"
        said = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        body = said | {"confirm_password": PASSWORD, "terms_accepted": True}
        reply = requests.post(f"{marketplace.url}/client/register/", json=body, timeout=TIMEOUT_S)
        assert reply.status_code == 201, reply.text
        return cls(marketplace, said["email"], PASSWORD)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        return self._session.request(
            method, self.marketplace.url + path, json=body, headers=headers, timeout=TIMEOUT_S
        )

    def get(self, path: str) -> Any:
        """As often as it takes: parts of the marketplace may be away for a moment."""
        return self._insist("GET", path, None)

    def post(self, path: str, body: Any = None) -> Any:
        """Likewise, and carried out once, as clients do it: a repeat has the same key."""
        return self._insist("POST", path, body, **{"Idempotency-Key": uuid.uuid4().hex})

    def _insist(self, method: str, path: str, body: Any, **headers: str) -> Any:
        deadline = time.monotonic() + 60
        while True:
            try:
                reply = self.ask(method, path, body, **headers)
                passes = reply.status_code == UNAVAILABLE or (
                    reply.status_code == 409 and "idempotency_key_in_use" in reply.text
                )
                if not passes:
                    assert reply.ok, (method, path, reply.status_code, reply.text[:1000])
                    return reply.json()
            except requests.ConnectionError as error:
                reply = error  # type: ignore[assignment]
            assert time.monotonic() < deadline, (method, path, reply, getattr(reply, "text", ""))
            time.sleep(0.5)

    def balance(self) -> Decimal:
        return Decimal(self.get("/account/balance")["balance"])

    def held(self) -> Decimal:
        return Decimal(self.get("/account/balance")["held"])

    def link(self, key: str) -> str:
        """Link a wallet by signing the challenge's message (EIP-4361, EIP-191); its address."""
        wallet = Account.from_key(key)
        asked = {"address": wallet.address, "chain_id": 1}
        message = self.post("/client/wallets/challenge/", asked)["message"]
        signature = wallet.sign_message(encode_defunct(text=message)).signature.hex()
        self.post("/client/wallets/", {"message": message, "signature": signature})
        return str(wallet.address)

    def withdraw(self, amount: str, address: str) -> dict[str, Any]:
        return dict(self.post("/chain/withdrawals/", {"amount": amount, "address": address}))

    def withdrawal(self, number: int) -> dict[str, Any]:
        return dict(self.get(f"/chain/withdrawals/{number}/"))

    def order(self, source: str, *, payment: str, prompt: str = "Hello", **more: Any) -> int:
        """Have a task published; the order's number."""
        data = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 20}
        body = {"source": source, "function_name": "chat", "data": data, "payment": payment, **more}
        return int(self.post("/chain/tasks/", body)["order"]["id"])

    def task(self, order: int | str) -> dict[str, Any]:
        return dict(self.get(f"/chain/tasks/{order}/"))

    def await_order(self, order: int, *statuses: str, within_s: float = 60) -> dict[str, Any]:
        """The task of an order as soon as that has come so far."""

        def look() -> dict[str, Any] | None:
            found = self.task(order)
            return found if found["order"]["status"] in statuses else None

        return dict(eventually(look, within_s=within_s, every_s=0.2, what=lambda: str(self.task(order))))

    def await_response(self, task: str, *, within_s: float = 60) -> str:
        """The address of our nodes' response to a task, as soon as it is there."""
        path = f"/chain/responses/?task={task}"
        found = eventually(
            lambda: self.get(path), within_s=within_s, every_s=0.2, what=lambda: str(self.task(task))
        )
        return str(found[0]["address"])

    def incomes(self) -> list[Decimal]:
        """What tasks on chains have brought, after the fee."""
        moved = self.get("/account/transactions?kind=onchain&limit=1000")
        return [Decimal(each["amount"]) for each in moved]


class Operator:
    """Somebody in the admin."""

    def __init__(self, marketplace: Marketplace) -> None:
        self.marketplace = marketplace
        self._session = requests.Session()
        said = {"username": "operator", "password": marketplace.operator["password"], "next": "/admin/"}
        self._send("/admin/login/", said)
        assert "sessionid" in self._session.cookies, "the operator cannot log in"

    def change_terms(self, **changes: str) -> None:
        """Values of the form's fields; a switch is "on" or empty."""
        page = self._get("/admin/clients/terms/add/")
        said = Fields.of(page) | {"reason": "A story."} | changes
        page = self._send("/admin/clients/terms/add/", {name: value for name, value in said.items() if value})
        assert "errornote" not in page, page

    def freeze(self, frozen: bool) -> None:
        verb = "freeze-payouts" if frozen else "unfreeze-payouts"
        self._send(f"/admin/clients/terms/{verb}/", {"reason": "A story."})

    def approve(self, withdrawal: int) -> None:
        self._send(f"/admin/chain/withdrawal/{withdrawal}/approve/", {"reason": "A story."})

    def reconcile(self) -> None:
        self._send("/admin/chain/reconciliation/run/", {})

    def trial_balance(self) -> str:
        return self._get("/admin/trial-balance/")

    def serve(self, service: int, model: str) -> None:
        """Have our nodes work for a source, whatever stake that takes."""
        said = {"model": model, "functions": "", "reason": "A story."}
        self._send(f"/admin/chain/service/{service}/serve/", said)

    def _get(self, path: str) -> str:
        return self._answered("GET", path)

    def _send(self, path: str, said: dict[str, str]) -> str:
        token = Fields.of(self._get(path))["csrfmiddlewaretoken"]
        referer = {"Referer": self.marketplace.url + path}
        return self._answered("POST", path, data=said | {"csrfmiddlewaretoken": token}, headers=referer)

    def _answered(self, method: str, path: str, **said: Any) -> str:
        """As often as it takes: parts of the marketplace may be away for a moment."""

        def look() -> list[requests.Response]:
            with suppress(requests.ConnectionError):
                url = self.marketplace.url + path
                reply = self._session.request(method, url, timeout=TIMEOUT_S, **said)
                return [] if reply.status_code == UNAVAILABLE else [reply]
            return []

        (found,) = eventually(look, within_s=60, every_s=0.2)
        assert found.status_code == 200, (path, found.status_code, found.text[:2000])
        return str(found.text)


class Fields(HTMLParser):
    """What the fields of a page's forms hold."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, str] = {}

    @classmethod
    def of(cls, page: str) -> dict[str, str]:
        found = cls()
        found.feed(page)
        return found.values

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag != "input" or not said.get("name") or said.get("type") in ("submit", "button"):
            return
        is_off = said.get("type") == "checkbox" and "checked" not in said
        self.values[str(said["name"])] = "" if is_off else said.get("value") or ""


# Holds of what has ended, or of nothing.
HELD_FOR_NOTHING = """
    SELECT h.reference, h.amount - h.captured FROM clients_hold h
    WHERE h.ended_at IS NULL AND (starts_with(h.reference, 'withdrawal:') AND NOT EXISTS (
            SELECT 1 FROM chain_withdrawal w
            WHERE 'withdrawal:' || w.number = h.reference AND w.status IN ('requested', 'approved', 'sending'))
        OR starts_with(h.reference, 'task-order:') AND NOT EXISTS (
            SELECT 1 FROM chain_taskorder o
            WHERE 'task-order:' || o.id = h.reference
                AND o.status IN ('publishing', 'published', 'confirming', 'cancelling')))
"""
OPEN = """
    SELECT 'transaction', reference, status, reason FROM chain_transaction
    WHERE status NOT IN ('confirmed', 'reverted', 'refused', 'cancelled')
    UNION ALL SELECT 'withdrawal', number::text, status, reason FROM chain_withdrawal
    WHERE status IN ('approved', 'sending')
    UNION ALL SELECT 'order', id::text, status, reason FROM chain_taskorder
    WHERE status IN ('publishing', 'confirming', 'cancelling')
    UNION ALL SELECT 'fulfilment', id::text, status, reason FROM chain_fulfilment
    WHERE status IN ('found', 'checked', 'attempting', 'working', 'answering')
    UNION ALL SELECT 'deposit', id::text, status, reason FROM chain_deposit WHERE status IN ('seen', 'orphaned')
"""


class Audit:
    """Whether the ledger and the chain agree, by the chain itself, the rows, and what operators see."""

    def __init__(self, marketplace: Marketplace, node: Node, manifest: dict[str, Any]) -> None:
        self.url = postgres.url(place_for_services(Home(marketplace.home)))
        self.node, self.contracts = node, manifest["contracts"]
        self.operator = Operator(marketplace)

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """As soon as the database answers."""

        def look() -> list[list[tuple[Any, ...]]]:
            with suppress(psycopg2.OperationalError):
                return [self._rows(sql, *parameters)]
            return []

        return list(eventually(look, within_s=60)[0])

    def _rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(self.url)
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, parameters or None)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def await_rest(self, *, within_s: float = 90) -> None:
        """Until nothing is under way any more."""
        eventually(
            lambda: not self.rows(OPEN), within_s=within_s, every_s=0.2, what=lambda: str(self.rows(OPEN))
        )

    def check(self, *, within_s: float = 90) -> None:
        """Nothing lost, nothing twice, ledger equals chain."""
        self.await_rest(within_s=within_s)
        assert self.rows(ledger_books.WRONG) == []
        assert self.rows(HELD_FOR_NOTHING) == []
        assert "The books add up" in self.operator.trial_balance()
        self._check_transactions()
        self._check_withdrawals()
        self._check_answers()
        self._check_reconciliations()

    def _check_transactions(self) -> None:
        """Each reference was carried out once, and no nonce was left out."""
        forms: dict[str, list[str]] = {}
        for reference, form in self.rows(
            "SELECT t.reference, s.hash FROM chain_transaction t JOIN chain_signed s ON s.transaction_id = t.id "
            "WHERE t.status = 'confirmed'"
        ):
            forms.setdefault(reference, []).append(form)
        for reference, hashes in forms.items():
            receipts = [found for each in hashes if (found := self.node.receipt(each))]
            done = [each for each in receipts if each["status"] == "0x1"]
            assert len(done) == 1, f"{reference} was carried out {len(done)} times"
        used = self.rows(
            "SELECT sender, array_agg(nonce ORDER BY nonce) FROM chain_transaction WHERE nonce IS NOT NULL GROUP BY 1"
        )
        for sender, nonces in used:
            expected = list(range(nonces[0], self.node.nonce(sender)))
            assert nonces == expected, f"{sender} has used {nonces}, and the chain knows {expected}"

    def _check_withdrawals(self) -> None:
        """Each is paid once and settled once, or neither."""
        told = self.node.logs(self.contracts["TREASURY"], "Withdrawn(bytes32,address,uint256,bool)")
        paid = [each["topics"][1] for each in told]
        known = self.rows(
            "SELECT w.payment_reference, w.status, (SELECT count(*) FROM clients_transfer t "
            "WHERE t.reference = 'withdrawal:' || w.number AND t.kind = 'withdrawal') FROM chain_withdrawal w"
        )
        for reference, status, settled in known:
            times = 1 if status == "confirmed" else 0
            assert (paid.count(reference), settled) == (times, times), (reference, status, settled)
        assert set(paid) <= {reference for reference, _, _ in known}

    def _check_answers(self) -> None:
        """Our provider answers a task once at most, and is paid once at most."""
        submitted = self.node.logs(self.contracts["NEXUS"], "ResponseSubmitted(address,address)")
        ours = {row[0].lower() for row in self.rows("SELECT task_address FROM chain_fulfilment")}
        # The second of the event's two words.
        tasks = [task for each in submitted if (task := "0x" + each["data"][90:130].lower()) in ours]
        assert len(tasks) == len(set(tasks)), "a task was answered twice"
        unpaid = self.rows(
            "SELECT f.id, count(t.id) FROM chain_fulfilment f LEFT JOIN clients_transfer t "
            "ON t.reference = 'fulfilment:' || f.id AND t.kind = 'onchain' WHERE f.status = 'confirmed' "
            "GROUP BY 1 HAVING count(t.id) <> 1"
        )
        assert unpaid == [], unpaid

    def _check_reconciliations(self) -> None:
        self.operator.reconcile()
        latest = self.rows(
            "SELECT DISTINCT ON (network_id) network_id, unexplained, is_balanced, lines FROM chain_reconciliation "
            "WHERE by_id IS NOT NULL ORDER BY network_id, id DESC"
        )
        assert latest, "nothing was compared"
        for network, unexplained, is_balanced, lines in latest:
            wrong = [line for line in lines if line["unexplained"] != "0" or line["wrong"]]
            assert (unexplained, is_balanced) == (0, True), (network, wrong)
