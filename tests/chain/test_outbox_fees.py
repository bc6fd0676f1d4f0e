"""What is stuck gets higher fees, up to a limit."""

from __future__ import annotations

from typing import Any

import pytest

from chain import outbox
from chain.models import Signed, Transaction, TransactionStatus
from tests.chain.sending import Sending

Status = TransactionStatus


def test_what_is_stuck_gets_higher_fees_and_only_one_of_its_forms_is_carried_out(sending: Sending) -> None:
    before = sending.balance(sending.devnet.bob.address)
    with sending.devnet.held():
        row = sending.queue("one", value=5)
        sending.advance()
        sending.advance(44)
        assert len(sending.forms(row)) == 1
        sending.advance(10)
        first, second = sending.forms(row)
        assert second.nonce == first.nonce
        assert second.max_fee * 1000 >= first.max_fee * 1125
        assert second.priority_fee * 1000 >= first.priority_fee * 1125
        sending.advance(50)
        assert len(sending.forms(row)) == 3
        sending.devnet.mine()
    sending.finish(3)
    row.refresh_from_db()
    assert (row.status, row.hash) == (Status.CONFIRMED, sending.forms(row)[-1].hash)
    assert sending.balance(sending.devnet.bob.address) == before + 5


def test_an_earlier_form_may_be_the_one_that_was_carried_out(sending: Sending) -> None:
    with sending.devnet.held():
        row = sending.queue("one")
        sending.advance()
        sending.devnet.mine()
        # Signed with higher fees before the receipt of the first was seen.
        Transaction.objects.update(is_bump_wanted=True)
        form = sending.forms(row)[0]
        row.refresh_from_db()
        _bumped_unsent(sending, row, form)
    sending.finish(3)
    row.refresh_from_db()
    assert (row.status, row.hash) == (Status.CONFIRMED, form.hash)


def _bumped_unsent(sending: Sending, row: Transaction, form: Signed) -> None:
    from chain import forms
    from chain.fees import Fees

    at = Fees(form.max_fee * 2, form.priority_fee * 2)
    assert forms.replacement(row, form, at=at, now=sending.now) is not None


def test_fees_are_not_raised_beyond_the_limit_and_the_row_says_so(sending: Sending, settings: Any) -> None:
    with sending.devnet.held():
        row = sending.queue("one")
        sending.advance()
        (form,) = sending.forms(row)
        settings.CHAIN_MAX_FEE_GWEI = form.max_fee // 10**9
        sending.advance(60)
        row.refresh_from_db()
        assert len(sending.forms(row)) == 1
        assert "limit" in row.reason
        settings.CHAIN_MAX_FEE_GWEI = 500
        sending.advance(200)
        assert len(sending.forms(row)) == 2


def test_it_does_not_begin_while_gas_is_above_the_limit(sending: Sending, settings: Any) -> None:
    settings.CHAIN_MAX_FEE_GWEI = 0
    row = sending.queue("one")
    sending.advance()
    row.refresh_from_db()
    assert (row.status, row.nonce) == (Status.QUEUED, None)
    assert "limit" in row.reason
    settings.CHAIN_MAX_FEE_GWEI = 500
    sending.finish(3)
    row.refresh_from_db()
    assert row.status == Status.CONFIRMED


def test_an_operator_can_have_the_fees_raised_at_once(sending: Sending, operator: Any) -> None:
    with sending.devnet.held():
        row = sending.queue("one")
        sending.advance()
        outbox.bump(row, operator)
        sending.now = max(sending.now, Transaction.objects.get().next_try_at)
        sending.advance()
        assert len(sending.forms(row)) == 2
    with pytest.raises(outbox.TooLate):
        sending.finish(3)
        outbox.bump(row, operator)
