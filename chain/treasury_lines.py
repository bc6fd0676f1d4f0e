"""The Treasury against the ledger: deposits, withdrawals, and the coins that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chain.lines import Judged, Line, Question, judged, line, sums
from chain.models import Network
from marketplace import money

_CLAIMABLE = "totalClaimable()"

_EVENTS = """
    SELECT sum(amount) FILTER (WHERE name = 'Deposited'), sum(amount) FILTER (WHERE name = 'Funded'),
        sum(amount) FILTER (WHERE name = 'Withdrawn'),
        sum(amount) FILTER (WHERE name = 'Withdrawn' AND sent = 'false'),
        sum(amount) FILTER (WHERE name = 'Claimed'), sum(amount) FILTER (WHERE name = 'Recovered')
    FROM (
        SELECT name, (arguments->>'amount')::numeric AS amount, arguments->>'sent' AS sent FROM chain_log
        WHERE network_id = %(network)s AND address = %(treasury)s AND block_number <= %(block)s
            AND name IN ('Deposited', 'Funded', 'Withdrawn', 'Claimed', 'Recovered')
    ) AS told
"""

# What a transfer still is, after what was given back of it.
_GIVEN_BACK = """
    SELECT reverses_id AS id, sum(amount) AS amount FROM clients_transfer WHERE reverses_id IS NOT NULL GROUP BY 1
"""

_DEPOSITS = f"""
    WITH told AS (
        SELECT transaction_hash, row_number() OVER (PARTITION BY transaction_hash ORDER BY log_index) - 1 AS ordinal,
            block_number, (arguments->>'amount')::numeric AS amount, (arguments->>'account')::numeric AS account,
            arguments->>'sender' AS sender
        FROM chain_log WHERE network_id = %(network)s AND address = %(treasury)s AND name = 'Deposited'
    ), back AS ({_GIVEN_BACK}), moved AS (
        SELECT split_part(t.reference, ':', 2)::bigint AS id, sum(t.amount) AS credited,
            sum(coalesce(back.amount, 0)) AS taken_back,
            count(DISTINCT d.client_id) FILTER (WHERE back.id IS NULL) AS payees,
            max(d.client_id) FILTER (WHERE back.id IS NULL) AS payee
        FROM clients_transfer t
        LEFT JOIN back ON back.id = t.id
        LEFT JOIN clients_account d ON d.id = t.destination_id
        -- In the order of the index: "deposit:" and all that begins with it.
        WHERE t.reference >= 'deposit:' AND t.reference < 'deposit;' AND t.kind = 'deposit'
            AND t.reference ~ '^deposit:[0-9]{{1,18}}:[0-9]{{1,9}}$'
        GROUP BY 1
    ), known AS (
        SELECT * FROM chain_deposit WHERE network_id = %(network)s
    ), strays AS (
        -- Credits of deposits that nobody knows belong to the first network.
        SELECT moved.* FROM moved
        WHERE NOT EXISTS (SELECT 1 FROM chain_deposit d WHERE d.id = moved.id)
            AND %(network)s = (SELECT min(id) FROM chain_network)
    ), compared AS (
        SELECT known.id, known.status, known.client_id, known.account_number, known.amount, known.sender,
            known.block_number, coalesce(moved.credited, 0) AS credited, coalesce(moved.taken_back, 0) AS taken_back,
            moved.payees, moved.payee, told.amount AS told_amount, told.account AS told_account,
            told.sender AS told_sender, told.block_number AS told_block, told.transaction_hash
        FROM known LEFT JOIN moved USING (id)
        FULL JOIN told ON told.transaction_hash = known.transaction_hash AND told.ordinal = known.ordinal
        UNION ALL
        SELECT id, NULL, NULL, NULL, NULL, NULL, NULL, credited, taken_back, payees, payee, NULL, NULL, NULL, NULL, NULL
        FROM strays
    ), netted AS (
        SELECT *, credited - taken_back AS ledger, coalesce(told_amount, 0) AS chain FROM compared
        -- What is later than the block is no part of it, on neither side.
        WHERE coalesce(told_block, 0) <= %(block)s AND coalesce(block_number, 0) <= %(block)s
    )
    SELECT CASE
        WHEN told_amount IS NOT NULL AND status IS NOT NULL
            AND (amount, account_number, sender) IS DISTINCT FROM (told_amount, told_account, told_sender) THEN 'wrong'
        WHEN ledger = chain AND status = 'credited' AND payees = 1 AND payee = client_id THEN 'right'
        WHEN ledger = 0 AND chain = 0 AND status = 'reversed' THEN 'right'
        WHEN ledger = 0 AND chain = amount AND status = 'seen' THEN 'waiting'
        WHEN ledger = 0 AND chain = amount AND status = 'unclaimed' THEN 'unclaimed'
        WHEN ledger = amount AND chain = 0 AND status = 'orphaned' THEN 'orphaned'
        WHEN ledger = 0 AND chain = 0 AND status = 'orphaned' THEN 'right'
        WHEN ledger = 0 AND chain = amount AND status = 'credited' AND taken_back > 0 THEN 'given back'
        ELSE 'wrong' END, ledger, chain,
        CASE WHEN status IS NULL AND id IS NULL THEN 'a deposit in ' || transaction_hash || ' that is not known here'
            WHEN status IS NULL THEN 'a credit of deposit ' || id || ', which does not exist'
            ELSE 'deposit ' || id || ' (' || status || '): ' || ledger || ' credited, ' || chain || ' on the chain'
                || CASE WHEN payees > 1 OR payee <> client_id THEN ', to somebody else'
                    WHEN (account_number, sender) IS DISTINCT FROM (told_account, told_sender)
                        AND told_amount IS NOT NULL THEN ', for another account or sender'
                    WHEN amount <> told_amount THEN ', known as ' || amount ELSE '' END END
    FROM netted
"""  # noqa: S608 - constants

_WITHDRAWALS = f"""
    WITH told AS (
        SELECT arguments->>'reference' AS reference, arguments->>'to' AS receiver, block_number, transaction_hash,
            (arguments->>'amount')::numeric AS amount
        FROM chain_log WHERE network_id = %(network)s AND address = %(treasury)s AND name = 'Withdrawn'
    ), back AS ({_GIVEN_BACK}), moved AS (
        SELECT t.reference, t.amount AS settled, coalesce(back.amount, 0) AS given_back, s.client_id AS payer
        FROM clients_transfer t
        LEFT JOIN back ON back.id = t.id
        LEFT JOIN clients_account s ON s.id = t.source_id
        WHERE t.reference >= 'withdrawal:' AND t.reference < 'withdrawal;' AND t.kind = 'withdrawal'
    ), known AS (
        SELECT number, status, client_id, address, amount, payment_reference, 'withdrawal:' || number AS reference
        FROM chain_withdrawal WHERE network_id = %(network)s
    ), compared AS (
        SELECT known.number, known.status, known.client_id, known.address, known.amount,
            coalesce(moved.settled, 0) AS settled, coalesce(moved.given_back, 0) AS given_back, moved.payer,
            told.amount AS told_amount, told.receiver, told.block_number,
            told.reference AS told_reference, NULL AS stray
        FROM known LEFT JOIN moved USING (reference)
        FULL JOIN told ON told.reference = known.payment_reference
        UNION ALL
        SELECT NULL, NULL, NULL, NULL, NULL, settled, given_back, payer, NULL, NULL, NULL, NULL, moved.reference
        FROM moved
        WHERE NOT EXISTS (SELECT 1 FROM chain_withdrawal w WHERE 'withdrawal:' || w.number = moved.reference)
            AND %(network)s = (SELECT min(id) FROM chain_network)
    ), netted AS (
        SELECT *, settled - given_back AS ledger, coalesce(told_amount, 0) AS chain FROM compared
        WHERE coalesce(block_number, 0) <= %(block)s
    )
    SELECT CASE
        WHEN status IS NULL AND stray IS NULL AND EXISTS (
            SELECT 1 FROM clients_auditentry a WHERE a.action = 'acknowledge_payment' AND a.subject = told_reference
        ) THEN 'acknowledged'
        WHEN status IS NULL THEN 'wrong'
        WHEN told_amount IS NOT NULL AND (amount, address) IS DISTINCT FROM (told_amount, receiver) THEN 'wrong'
        WHEN ledger = chain AND status = 'confirmed' AND payer = client_id THEN 'right'
        WHEN ledger = 0 AND chain = 0 AND status <> 'confirmed' THEN 'right'
        WHEN ledger = 0 AND chain = amount AND status = 'sending' THEN 'not settled'
        WHEN ledger = 0 AND chain = amount AND status = 'confirmed' AND given_back > 0 THEN 'given back'
        ELSE 'wrong' END, ledger, chain,
        CASE WHEN stray IS NOT NULL THEN stray || ' is settled, and there is no such withdrawal'
            WHEN status IS NULL
                THEN 'a payment to ' || receiver || ' under ' || told_reference || ', which is nobody''s'
            ELSE 'withdrawal ' || number || ' (' || status || '): ' || ledger || ' settled, ' || chain
                || ' on the chain'
                || CASE WHEN receiver <> address THEN ', to another wallet'
                    WHEN payer <> client_id THEN ', out of somebody else''s account'
                    WHEN amount <> told_amount THEN ', known as ' || amount ELSE '' END END
    FROM netted
"""  # noqa: S608 - constants

_UNDER_WAY = """
    SELECT
        (SELECT sum(amount) FROM chain_deposit
            WHERE network_id = %(network)s AND status = 'seen' AND block_number > %(block)s),
        (SELECT sum(amount) FROM chain_withdrawal
            WHERE network_id = %(network)s AND status IN ('requested', 'approved', 'sending'))
"""

_OF_DEPOSITS = (
    ("waiting", "deposits that are about to be credited"),
    ("unclaimed", "deposits that nobody has claimed"),
    ("orphaned", "credited deposits whose block is gone"),
    ("given back", "credits that an operator has reversed"),
)
_OF_WITHDRAWALS = (
    ("not settled", "paid withdrawals that are about to be settled"),
    ("given back", "withdrawals that an operator has given back in the ledger"),
    ("acknowledged", "payments of nobody's that an operator has acknowledged"),
)


def questions(network: Network) -> list[Question]:
    """What the chain is asked for."""
    treasury = network.address("TREASURY")
    return [Question(treasury), Question(treasury, _CLAIMABLE)] if treasury else []


def lines(network: Network, block: int, said: Mapping[Question, int]) -> list[Line]:
    """As of a block, with what the chain has answered."""
    treasury = network.address("TREASURY")
    if not treasury:
        return []
    parameters: dict[str, Any] = {"network": network.pk, "treasury": treasury, "block": block}
    came = judged(_DEPOSITS, parameters)
    went = judged(_WITHDRAWALS, parameters)
    coins, claimable = said[Question(treasury)], said[Question(treasury, _CLAIMABLE)]
    deposited, funded, withdrawn, kept, claimed, recovered = sums(_EVENTS, parameters)
    return [
        _coins(
            came,
            went,
            coins,
            {"kept": kept - claimed, "funded": funded, "recovered": recovered},
            sums(_UNDER_WAY, parameters),
        ),
        line("Deposits", "What was credited, and what the Treasury says has come.", came, _OF_DEPOSITS),
        line(
            "Withdrawals", "What was settled, and what the Treasury says it has paid.", went, _OF_WITHDRAWALS
        ),
        Line(
            "Kept for wallets",
            "What wallets refused and have not claimed, by the events, and by the Treasury's own count.",
            ledger=kept - claimed,
            chain=claimable,
        ),
        Line(
            "Events of the Treasury",
            "The coins that should be there by its events, and those that are.",
            ledger=deposited + funded - withdrawn + kept - claimed - recovered,
            chain=coins,
        ),
    ]


def _coins(
    came: Mapping[str, Judged],
    went: Mapping[str, Judged],
    coins: int,
    others: Mapping[str, int],
    under_way: list[int],
) -> Line:
    """What clients have brought and taken, and the coins that are there."""
    explained = [(words, _more(came, verdict)) for verdict, words in _OF_DEPOSITS]
    explained += [(words, -_more(went, verdict)) for verdict, words in _OF_WITHDRAWALS]
    explained += [
        ("capital of the operators'", others["funded"]),
        ("what operators have taken out", -others["recovered"]),
        ("paid out, and kept for wallets that refused it", others["kept"]),
    ]
    credited = sum(each.ledger for each in came.values())
    settled = sum(each.ledger for each in went.values())
    coming, going = map(money.render, under_way)
    says = (
        "What clients have deposited less what they have withdrawn, and the coins of the Treasury. On neither side: "
        f"deposits of {coming} that wait for confirmations, withdrawals of {going} that are under way."
    )
    return Line("Treasury", says, ledger=credited - settled, chain=coins, explained=explained)


def _more(found: Mapping[str, Judged], verdict: str) -> int:
    return found[verdict].chain - found[verdict].ledger if verdict in found else 0
