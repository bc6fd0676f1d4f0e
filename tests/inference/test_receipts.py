"""`/inference/{id}/receipt`, `/receipts/key/`, and `manage.py verify_receipt`."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given
from hypothesis import strategies as st

from clients.models import Transfer
from inference import batches, receipts, signing, verification
from inference.models import Inference, Status
from inference.verification import InvalidReceipt, verify
from marketplace import money
from tests.inference.conftest import NOON

Pay = Callable[..., Inference]


def url(record: Inference) -> str:
    return f"/inference/{record.pk}/receipt"


@pytest.fixture
def document(pay: Pay, alice: Any, api: Any) -> dict[str, Any]:
    record = pay()
    batches.seal(now=NOON)
    found: dict[str, Any] = api(alice).get(url(record)).json()
    return found


# --- What it says -------------------------------------------------------------------------------------------


def test_it_says_what_was_paid_to_whom_for_what(
    pay: Pay, alice: Any, bob: Any, api: Any, settings: Any
) -> None:
    settings.PUBLIC_URL, settings.CURRENCY = "https://gpus.example", "COIN"
    record = pay(
        attempts=[{"node": 3, "name": "slow-node", "reason": "It did not answer."}],
        question_text="Why?",
        answer_text="Because.",
    )

    reply = api(alice).get(url(record))

    found = reply.json()["receipt"]
    paid = Transfer.objects.get(reference=f"inference:{record.pk}")
    assert reply.status_code == 200
    assert (found["marketplace"], found["currency"]) == ("https://gpus.example", "COIN")
    assert (found["inference"], found["request_id"]) == (record.pk, record.request_id.hex)
    assert (found["client"], found["provider"], found["node"]) == (alice.pk, bob.pk, 7)
    assert (found["model"], found["revision"], found["kind"]) == ("llama", "a1b2", "chat")
    assert found["tokens"] == {"prompt": 100, "completion": 20, "source": "engine"}
    assert found["price"] == {"id": record.price_id, "input": "1000", "output": "2000", "request": "0.5"}
    assert found["terms"] == {"id": record.terms_id, "fee_bps": 1000}
    assert found["cost"] == {"prompt": "0.1", "completion": "0.04", "request": "0.5", "total": "0.64"}
    assert (found["charged"], found["provider_share"], found["fee"]) == ("0.64", "0.576", "0.064")
    assert found["capped"] is False
    assert found["attempts"] == [{"node": 3, "reason": "It did not answer."}]
    assert found["ledger"]["reference"] == f"inference:{record.pk}"
    assert found["ledger"]["transfer"] == paid.pk
    assert (found["request_sha256"], found["response_sha256"]) == ("1" * 64, "2" * 64)
    assert found["finished_at"] == "2026-11-20T12:30:00.000000Z"
    # Sealed receipts are written anew with these: whoever adds one must write the old ones as before.
    assert ",".join(sorted(found)) == (
        "allocation,attempts,capped,charged,client,code,cost,created_at,currency,face,fee,finished_at,id,inference,"
        "kind,ledger,marketplace,model,node,price,provider,provider_share,request_id,request_sha256,response_sha256,"
        "revision,status,streamed,terms,tokens,version"
    )
    assert "Why?" not in reply.content.decode()
    assert "Because." not in reply.content.decode()
    assert "slow-node" not in reply.content.decode()


def test_it_is_the_same_every_time_with_and_without_a_slash_and_after_the_record_was_deleted(
    pay: Pay, alice: Any, api: Any, operator: Any
) -> None:
    record = pay(question_text="Why?")
    first = api(alice).get(url(record)).content

    assert api(alice).get(url(record)).content == first
    assert api(alice).get(f"{url(record)}/").content == first
    assert api(operator).get(url(record)).content == first
    assert api(alice).delete(f"/inference/{record.pk}/").status_code == 204
    assert api(alice).get(url(record)).content == first


def test_it_stays_the_same_when_it_is_sealed_and_when_settings_change_later(
    pay: Pay, alice: Any, api: Any, settings: Any
) -> None:
    record = pay()
    before = api(alice).get(url(record)).json()
    batches.seal(now=NOON)
    settings.PUBLIC_URL, settings.CURRENCY = "https://moved.example", "OTHER"

    after = api(alice).get(url(record)).json()

    assert before["inclusion"] is None
    assert after["inclusion"] is not None
    assert (after["receipt"], after["signature"]) == (before["receipt"], before["signature"])


def test_another_key_signs_old_receipts_anew(pay: Pay, alice: Any, api: Any, settings: Any) -> None:
    record = pay()
    batches.seal(now=NOON)
    before = api(alice).get(url(record)).json()
    settings.RECEIPT_KEY = "0x" + "11" * 32

    after = api(alice).get(url(record)).json()

    assert after["signer"] == Account.from_key("0x" + "11" * 32).address != before["signer"]
    assert verify(after, after["signer"]).batch == before["inclusion"]["batch"]


def test_the_key_is_public_and_comes_from_the_secret_key_unless_it_is_set(api: Any, settings: Any) -> None:
    reply = api().get("/receipts/key/")
    derived = reply.json()["address"]

    assert reply.json() == {"address": signing.signer(), "scheme": "EIP-191"}
    assert api().get("/receipts/key").json() == reply.json()
    settings.SECRET_KEY = "another-another-another-another-another"
    assert api().get("/receipts/key/").json()["address"] != derived
    settings.RECEIPT_KEY = "0x" + "22" * 32
    assert api().get("/receipts/key/").json()["address"] == Account.from_key("0x" + "22" * 32).address


# --- Who gets it --------------------------------------------------------------------------------------------


def test_a_stranger_and_the_provider_find_nothing(pay: Pay, bob: Any, charlie: Any, api: Any) -> None:
    record = pay()

    assert api(charlie).get(url(record)).status_code == 404
    assert api(bob).get(url(record)).status_code == 404
    assert api().get(url(record)).status_code == 401


def test_a_request_that_cost_nothing_has_none(alice: Any, api: Any) -> None:
    record = Inference.objects.create(
        client=alice, kind="chat", desired_model="llama", status=Status.COMPLETED
    )

    reply = api(alice).get(url(record))

    assert (reply.status_code, reply.json()["code"]) == (404, "no_receipt")


def test_a_request_that_still_runs_has_none_yet(alice: Any, api: Any) -> None:
    record = Inference.objects.create(client=alice, kind="chat", desired_model="llama")

    reply = api(alice).get(url(record))

    assert (reply.status_code, reply.json()["code"]) == (409, "still_running")


# --- Checking it --------------------------------------------------------------------------------------------


def test_it_is_valid_before_and_after_it_is_sealed(pay: Pay, alice: Any, api: Any) -> None:
    record = pay()
    open_one = verify(api(alice).get(url(record)).json(), signing.signer())
    batches.seal(now=NOON)
    sealed = verify(api(alice).get(url(record)).json(), signing.signer())

    assert (open_one.batch, open_one.signer) == (None, signing.signer())
    assert sealed.batch is not None


def test_part_of_an_answer_is_charged_without_the_price_of_the_request(
    pay: Pay, alice: Any, api: Any
) -> None:
    broken = pay(status=Status.PARTIAL, code="node_lost")
    left = pay(cost=money.parse("0.64"), status=Status.PARTIAL, code="consumer_left")

    of_broken, of_left = (api(alice).get(url(record)).json() for record in (broken, left))

    assert verify(of_broken).receipt["cost"]["request"] == "0"
    assert verify(of_left).receipt["cost"]["request"] == "0.5"


def test_a_charge_below_the_cost_says_that_it_was_capped(pay: Pay, alice: Any, api: Any) -> None:
    document = api(alice).get(url(pay(cost=money.parse("0.6")))).json()

    assert verify(document).receipt["capped"] is True


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("charged",), "0.63"),
        (("charged",), "0.640"),
        (("tokens", "prompt"), 101),
        (("tokens", "prompt"), "100"),
        (("price", "output"), "2001"),
        (("cost", "total"), "1"),
        (("fee",), "0.065"),
        (("provider_share",), "0.575"),
        (("capped",), True),
        (("status",), "partial"),
        (("client",), 999),
        (("node",), 1.5),
        (("version",), 2),
        (("ledger", "reference"), "inference:0"),
        (("request_sha256",), "x"),
        (("model",), "other"),
    ],
)
def test_a_changed_receipt_is_refused_and_by_its_arithmetic_even_if_it_is_signed(
    document: dict[str, Any], path: tuple[str, ...], value: Any
) -> None:
    place = document["receipt"]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value

    with pytest.raises(InvalidReceipt):
        verify(document, signing.signer())
    if path not in {("client",), ("model",)}:
        document["inclusion"] = None
        document["signature"] = signing.sign(verification.receipt_message(document["receipt"]))
        with pytest.raises(InvalidReceipt):
            verify(document, signing.signer())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("proof", ["0x" + "00" * 32]),
        ("root", "0x" + "00" * 32),
        ("root_signature", "0x" + "00" * 65),
        ("proof", ""),
    ],
)
def test_another_place_in_another_batch_is_refused(document: dict[str, Any], name: str, value: Any) -> None:
    document["inclusion"][name] = value

    with pytest.raises(InvalidReceipt):
        verify(document)


def test_somebody_elses_signature_is_refused(document: dict[str, Any]) -> None:
    forger = Account.from_key("0x" + "33" * 32)
    text = verification.canonical(document["receipt"])
    document["signature"] = "0x" + bytes(forger.sign_message(encode_defunct(text=text)).signature).hex()
    document["inclusion"] = None

    with pytest.raises(InvalidReceipt, match="document names"):
        verify(document)
    document["signer"] = forger.address
    assert verify(document).signer == forger.address
    with pytest.raises(InvalidReceipt, match=signing.signer()):
        verify(document, signing.signer())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["receipt", "signature", "signer", "inclusion", "tokens", "price"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_else_it_is_given_proves_nothing(said: Any) -> None:
    with pytest.raises(InvalidReceipt):
        verify(verification.read(json.dumps(said)))


@pytest.mark.parametrize(
    "text", ["", "[]", "nonsense", '{"a":1,"a":2}', '{"a":1.0}', '{"a":NaN}', "[" * 100_000, "9" * 10_000]
)
def test_what_can_be_read_in_two_ways_is_not_read(text: str) -> None:
    with pytest.raises(InvalidReceipt):
        verification.read(text)


printable = st.characters(exclude_categories=["Cs"])
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(printable),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.sampled_from("abc_12")), inner),
)


@given(st.dictionaries(st.text(st.sampled_from("abc_12")), plain))
def test_the_quick_way_to_write_a_receipt_is_the_documented_one(receipt: dict[str, Any]) -> None:
    assert receipts.canonical(receipt) == verification.canonical(receipt).encode()


def test_one_file_checks_it_without_anything_of_this_project(
    document: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "verification.py").write_bytes(Path(verification.__file__).read_bytes())
    (tmp_path / "receipt.json").write_text(json.dumps(document))
    program = (
        "import sys; sys.path.insert(0, '.'); import verification as v; "
        "print(v.verify(v.read(open('receipt.json').read()), sys.argv[1]).batch); "
        "assert not {'django', 'inference', 'marketplace'} & set(sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-I", "-c", program, signing.signer()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.strip() == str(document["inclusion"]["batch"]), done.stderr


def test_the_one_file_is_a_program_too(document: dict[str, Any], tmp_path: Path) -> None:
    file, changed = tmp_path / "receipt.json", tmp_path / "changed.json"
    file.write_text(json.dumps(document))
    changed.write_text(json.dumps(document | {"receipt": document["receipt"] | {"charged": "0"}}))

    def run(*arguments: object) -> tuple[int, str, str]:
        command = [sys.executable, "-I", verification.__file__, *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    assert run(file, signing.signer())[0:2] == (0, f"valid, signed by {signing.signer()} (whom you named)\n")
    assert run(file)[0] == 0
    assert run(file, "0x" + "00" * 20)[0] == 1
    status, said, why = run(changed, signing.signer())
    assert (status, said) == (1, "")
    assert "proves nothing" in why
    assert [run()[0], run(tmp_path / "none.json")[0]] == [2, 2]


# --- On the command line ------------------------------------------------------------------------------------


def test_the_command_says_what_a_receipt_proves(document: dict[str, Any], tmp_path: Path) -> None:
    file, said = tmp_path / "receipt.json", io.StringIO()
    file.write_text(json.dumps(document))

    call_command("verify_receipt", str(file), stdout=said)

    assert "The receipt is valid" in said.getvalue()
    assert "0.64 OMNIT" in said.getvalue()


def test_the_command_reads_standard_input_and_fails_for_another_signer(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(document)))

    with pytest.raises(CommandError, match="proves nothing"):
        call_command("verify_receipt", "-", signer="0x" + "00" * 20)


def test_the_command_fails_for_a_changed_receipt_and_for_a_missing_file(
    document: dict[str, Any], tmp_path: Path
) -> None:
    document["receipt"]["charged"] = "0.1"
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(document))

    with pytest.raises(CommandError, match="cost"):
        call_command("verify_receipt", str(file))
    with pytest.raises(CommandError, match="Could not read"):
        call_command("verify_receipt", str(tmp_path / "none.json"))
