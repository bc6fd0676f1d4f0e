"""The Vault against the ledger: what our addresses have there, and the tasks that were paid by us and to us.

Only a Vault that tells of payments (ours does, those of the public networks do not) can be counted after; where it
tells nothing, nothing is compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chain import floats, keys, networks
from chain.lines import Judged, Line, Question, judged, line, sums
from chain.models import Network, VaultFloat

_BALANCE, _LOCKUP = "getBalanceOf(address)", "getLockupOf(address)"
_UNBONDING, _FROZEN = "unbondingOf(address)", "frozenPayment(address)"

_EVENTS = """
    WITH told AS (
        SELECT name, arguments, (arguments->>'amount')::numeric AS amount, arguments->>'task' AS task,
            arguments->>'account' = %(address)s AS is_ours, arguments->>'client' = %(address)s AS is_client,
            coalesce(arguments->>'beneficiary', arguments->>'to') = %(address)s AS is_paid
        FROM chain_log WHERE network_id = %(network)s AND address = %(vault)s AND block_number <= %(block)s
    ), processed AS (
        SELECT task, amount FROM told WHERE name = 'PaymentProcessed' AND is_client
    )
    SELECT sum(amount) FILTER (WHERE name = 'Deposited' AND is_ours),
        sum(amount) FILTER (WHERE name = 'Withdrawn' AND is_ours),
        sum(amount) FILTER (WHERE name = 'Locked' AND is_ours),
        sum(amount) FILTER (WHERE name = 'Claimed' AND is_ours),
        sum(amount) FILTER (WHERE name = 'Sanctioned' AND is_ours),
        sum(amount) FILTER (WHERE name = 'Waived' AND is_ours),
        sum(amount) FILTER (WHERE name = 'PaymentFrozen' AND is_client),
        sum(amount) FILTER (WHERE name = 'PaymentReleased' AND is_client),
        sum(amount) FILTER (WHERE name = 'PaymentFrozen' AND task IN (SELECT task FROM processed)),
        (SELECT sum(amount) FROM processed),
        sum(amount) FILTER (WHERE name IN ('PaymentProcessed', 'SanctionWithdrawn') AND is_paid)
    FROM told
"""

_PAID = """
    SELECT arguments->>'task' AS task, arguments->>'client' AS client, arguments->>'provider' AS provider,
        (arguments->>'amount')::numeric AS amount, block_number
    FROM chain_log WHERE network_id = %(network)s AND address = %(vault)s AND name = 'PaymentProcessed'
"""

# Transfers whose references begin alike, in the order of the index, and what is left of them.
_MOVED = """
    SELECT t.reference, t.amount, coalesce(back.amount, 0) AS given_back
    FROM clients_transfer t
    LEFT JOIN (
        -- The fee goes back by a transfer of its own.
        SELECT b.reverses_id AS id, b.amount + coalesce(fee.amount, 0) AS amount
        FROM clients_transfer b
        LEFT JOIN clients_transfer fee ON fee.reference = b.reference || ':fee'
        WHERE b.reverses_id IS NOT NULL
    ) back ON back.id = t.id
    WHERE t.kind = 'onchain' AND t.reference >= %(prefix)s || ':' AND t.reference < %(prefix)s || ';'
"""

_ANSWERED = f"""
    WITH told AS ({_PAID}), moved AS ({_MOVED}), known AS (
        SELECT f.id, f.status, 'fulfilment:' || f.id AS reference, f.task_address, task.id IS NOT NULL AS is_present
        FROM chain_fulfilment f
        LEFT JOIN chain_task task ON task.network_id = f.network_id AND task.address = f.task_address
            AND task.transaction_hash = f.published_transaction
        WHERE f.network_id = %(network)s
    ), compared AS (
        SELECT known.id, known.status, told.task, coalesce(moved.amount, 0) AS credited,
            coalesce(moved.given_back, 0) AS given_back, coalesce(told.amount, 0) AS chain, told.block_number
        FROM known LEFT JOIN moved USING (reference)
        FULL JOIN (SELECT * FROM told WHERE provider = ANY(%(ours)s)) told
            ON told.task = known.task_address AND known.is_present
    ), netted AS (
        SELECT *, credited - given_back AS ledger FROM compared WHERE coalesce(block_number, 0) <= %(block)s
    )
    SELECT CASE
        WHEN id IS NULL AND chain = 0 THEN 'right'
        WHEN id IS NULL THEN 'wrong'
        WHEN ledger = chain AND (chain = 0 OR status = 'confirmed') THEN 'right'
        WHEN ledger = 0 AND status <> 'confirmed' THEN 'waiting'
        WHEN ledger = 0 AND credited = chain AND given_back > 0 THEN 'given back'
        ELSE 'wrong' END, ledger, chain,
        CASE WHEN id IS NULL THEN 'a payment for task ' || task || ', which nobody here has worked on'
            ELSE 'fulfilment ' || id || ' (' || status || '): ' || ledger || ' credited, ' || chain
                || ' paid by the Vault' END
    FROM netted
"""  # noqa: S608 - constants

_ORDERED = f"""
    WITH told AS ({_PAID}), moved AS ({_MOVED}), known AS (
        SELECT id, status, ended_at, task_address, 'task-order:' || id AS reference FROM chain_taskorder
        WHERE network_id = %(network)s
    ), compared AS (
        SELECT known.id, known.status, known.ended_at, coalesce(moved.amount, 0) AS charged,
            coalesce(moved.given_back, 0) AS given_back, coalesce(told.amount, 0) AS chain, told.block_number
        FROM known LEFT JOIN moved USING (reference)
        FULL JOIN (SELECT * FROM told WHERE client = ANY(%(ours)s)) told
            ON told.task = known.task_address AND known.task_address <> ''
    ), netted AS (
        SELECT *, charged - given_back AS ledger FROM compared WHERE coalesce(block_number, 0) <= %(block)s
    )
    SELECT CASE
        WHEN id IS NULL THEN 'own'
        WHEN ledger = chain AND (chain = 0 OR status = 'finished') THEN 'right'
        WHEN ledger = 0 AND ended_at IS NULL THEN 'waiting'
        WHEN ledger = 0 AND charged = chain AND given_back > 0 THEN 'given back'
        ELSE 'wrong' END, ledger, chain,
        CASE WHEN id IS NULL THEN ''
            ELSE 'order ' || id || ' (' || status || '): ' || ledger || ' charged, ' || chain
                || ' paid by the Vault' END
    FROM netted
"""  # noqa: S608 - constants

# What orders have on the chain beyond the balance: the payments of their tasks, frozen until these end.
_FROZEN_FOR_ORDERS = """
    SELECT sum(payment) FROM chain_taskorder
    WHERE network_id = %(network)s AND publisher = %(address)s AND status IN ('published', 'confirming', 'cancelling')
"""

_OF_ANSWERS = (
    ("waiting", "confirmed answers that are about to be credited"),
    ("given back", "credits that an operator has reversed"),
)
_OF_ORDERS = (
    ("waiting", "paid tasks whose orders are about to be settled"),
    ("given back", "charges that an operator has given back in the ledger"),
    ("own", "tasks that our keys have published without an order"),
)


def questions(network: Network) -> list[Question]:
    """What the chain is asked for."""
    vault = network.address("VAULT")
    functions = (_BALANCE, _LOCKUP, _UNBONDING, _FROZEN)
    return [Question(vault, function, address) for address in _ours(network) for function in functions]


def lines(network: Network, block: int, said: Mapping[Question, int]) -> list[Line]:
    """As of a block, with what the chain has answered."""
    ours, vault = _ours(network), network.address("VAULT")
    if not ours:
        return []
    parameters: dict[str, Any] = {"network": network.pk, "vault": vault, "block": block, "ours": ours}
    answered = judged(_ANSWERED, parameters | {"prefix": "fulfilment"})
    ordered = judged(_ORDERED, parameters | {"prefix": "task-order"})
    found = [
        line(
            "Tasks answered",
            "What was credited for answers, and what the Vault has paid us.",
            answered,
            _OF_ANSWERS,
        ),
        line(
            "Tasks ordered",
            "What was charged for orders, and what the Vault has paid for us.",
            ordered,
            _OF_ORDERS,
        ),
    ]
    for address in ours:
        state = {
            function: said[Question(vault, function, address)]
            for function in (_BALANCE, _LOCKUP, _UNBONDING, _FROZEN)
        }
        found += _account(address, state, sums(_EVENTS, parameters | {"address": address}))
        found.append(_custody(network, address, state, ordered))
    return found


def _ours(network: Network) -> list[str]:
    """Our addresses on a network whose Vault tells of payments: of the keys, and those that orders were paid by."""
    if not network.address("VAULT") or network.name in networks.KNOWN:
        return []
    try:
        found = keys.addresses()
    except keys.NoKey:
        found = []
    floats = VaultFloat.objects.filter(network=network).order_by("pk").values_list("address", flat=True)
    return list(dict.fromkeys([*found, *floats]))


def _account(address: str, state: Mapping[str, int], events: list[int]) -> list[Line]:
    """What an address has in the Vault, and what it should have by the Vault's events."""
    (
        deposited, withdrawn, locked, claimed, sanctioned, waived, frozen, released, thawed, spent, received,
    ) = events  # fmt: skip
    free = deposited - withdrawn - locked + claimed - frozen + released + thawed - spent + received
    parts = (
        ("free", free, state[_BALANCE]),
        ("staked", locked - claimed - sanctioned + waived, state[_LOCKUP] + state[_UNBONDING]),
        ("promised to tasks", frozen - released - thawed, state[_FROZEN]),
    )
    return [
        Line(
            f"Vault, {what}",
            f"What {address} has in the Vault, {what}: by its events, and as it is.",
            ledger=told,
            chain=there,
        )
        for what, told, there in parts
    ]


def _custody(network: Network, address: str, state: Mapping[str, int], ordered: Mapping[str, Judged]) -> Line:
    """What belongs to orders must be there; what is there beyond it is the marketplace's own."""
    (frozen,) = sums(_FROZEN_FOR_ORDERS, {"network": network.pk, "address": address})
    held = floats.in_vault(network, address=address) + frozen
    there = state[_BALANCE] + state[_FROZEN]
    paid = ordered["waiting"].chain - ordered["waiting"].ledger if "waiting" in ordered else 0
    own = max(there - held + paid, 0)
    return Line(
        "Held for orders",
        f"What orders have in the Vault by way of {address}, and what is there.",
        ledger=held,
        chain=there,
        explained=[
            ("paid for tasks whose orders are about to be settled", -paid),
            ("the marketplace's own, and earnings", own),
        ],
    )
