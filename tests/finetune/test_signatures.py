"""The signatures of the broker's published clients, byte for byte."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from eth_account import Account as Signer
from eth_account.messages import encode_defunct
from hypothesis import given
from hypothesis import strategies as st

from finetune import signatures
from finetune.signatures import NotASignature, NotSigned

# The first key of every hardhat network, which everybody knows.
KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
ADDRESS = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
DATASET = "0xaae9b4e031e06f84b20f10ec629f36c57719ea512992a6b7e2baea93f447a5fa"
NOW = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)
# Name: nonce, fee as it is sent, whether it is signed, inner hash, signature.
TASKS = {
    "of 2025": (
        17400000000000040, 1234, True,
        "dffc6a2e557aacfad2c8f3bcc1cd02bc703587f8b653ef5a031463344354a851",
        "0xe70e339f7d28a7e600ee6b8efa9bc8bad8e2761081e5a87b334ace4d3e1067ed"
        "03a5481bdf13047423731fe11034a992234a5568afc0626fd468bb7af9c9e6251c",
    ),
    "of 2025, by its program": (
        17952101853320040, 1234, True, None,
        "0xf3c1f9af2b800ed255e05282d97ae7fbe90792fe965a4d5e741e592e29708f38"
        "58879e3f7cea1984836d5c85dfb31d96a505db698e12069eb1d3611770d668ee1c",
    ),
    "of 2026": (
        17400000000000040, 0, False,
        "9322bd2728a2e162c22b60568c1ef0c8f82f0c63fb767fc811dd3108a647ebde",
        "0x5348d5d6451c48e2941255ce698d7ad8ece9b8be552775d1e5b4d948d224c7cb"
        "00a8e55a15ceec91a66e244047af26ba94e6ed4d0528079aa44372cdda6f9b2b1c",
    ),
    "of 2026, by its library": (
        17952103464220040, 0, False,
        "5f84dccaf5792002ee1a83e68ae706abfdf7ded66b581925b69a17e35f548a77",
        "0x0048afe9cfc788891035c7153e9c9a86bfca3078d4af62eb9f1db3f629daac6b"
        "56c4973878ce0c1f9c34855d79eb13c0ededd3789e631302313af4fe2d00429e1c",
    ),
    "of a hash that begins with zero": (
        17400000000130040, 1234, True,
        "00ec582c93b9ee62e21a97c1fc0ceab15ec76f70f6f892e3f5a2a5d7be493342",
        "0x046db141fa59f942a30cf427234475dae62fc935b2e3f16b7fd4a994fe986187"
        "50ee83f93174cac4a3002d79a76aac12208565fd63fc4dfdbf520541b0fb1e991b",
    ),
}  # fmt: skip
TASK_ID = UUID("71c84e9f-fa0e-4ef5-8d7e-8ffc1f281442")
CANCEL = (
    "0x85808c603d580afa1193e35bc6a80d0a27cf12c49ad3f1d5b2b99ba8da8a4df3"
    "08b08efc3eb1edae0681626518c44f74b0271095b5473139be40b9d30471e60b1c"
)


def signed(inner: bytes, key: str = KEY) -> str:
    return "0x" + bytes(Signer.sign_message(encode_defunct(inner), key).signature).hex()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_signed_by_a_client(name):
    nonce, fee, with_fee, inner, signature = TASKS[name]
    found = signatures.check_task(signature, address=ADDRESS, nonce=nonce, dataset_hash=DATASET, fee=fee)

    assert found.with_fee is with_fee
    assert found.public_key.to_checksum_address() == ADDRESS
    hashed = signatures.task_hash(
        address=ADDRESS, nonce=nonce, dataset_hash=DATASET, fee=fee if with_fee else None
    )
    assert inner is None or hashed.hex() == inner


def test_the_digest_of_a_task_of_2025():
    inner = bytes.fromhex(TASKS["of 2025"][3])
    assert signatures.digest(inner).hex() == (
        "7cd8ef3d2752dab5d770b302e1c1d40fe3371c4a1d738b3ebe878c5e8864d366"
    )


def test_the_digest_of_a_task_of_2026():
    inner = bytes.fromhex(TASKS["of 2026"][3])
    assert signatures.digest(inner).hex() == (
        "0745ca003d6910844b60ccc3b6a359e2404bd4ce7b4aa65c88bcb30abc1861e8"
    )


@pytest.mark.parametrize(
    "change", [{"nonce": 17400000000000041}, {"fee": 1235}, {"dataset_hash": DATASET.upper()}]
)
def test_a_task_that_was_changed_on_its_way_is_refused(change):
    nonce, fee, _, _, signature = TASKS["of 2025"]
    said = {"address": ADDRESS, "nonce": nonce, "fee": fee, "dataset_hash": DATASET} | change
    with pytest.raises(NotSigned, match="signature verification failed"):
        signatures.check_task(signature, **said)


def test_a_task_of_somebody_else_is_refused():
    nonce, fee, _, _, signature = TASKS["of 2025"]
    with pytest.raises(NotSigned):
        signatures.check_task(signature, address="0x" + "11" * 20, nonce=nonce, fee=fee, dataset_hash=DATASET)


def test_the_last_byte_may_also_be_0_or_1():
    nonce, fee, _, _, signature = TASKS["of 2025"]
    other = signature[:-2] + f"{int(signature[-2:], 16) - 27:02x}"
    assert signatures.check_task(other, address=ADDRESS, nonce=nonce, fee=fee, dataset_hash=DATASET)


def test_case_of_an_address_does_not_matter():
    nonce, fee, _, _, signature = TASKS["of 2025"]
    for address in (ADDRESS.lower(), "0x" + ADDRESS[2:].upper()):
        assert signatures.check_task(signature, address=address, nonce=nonce, fee=fee, dataset_hash=DATASET)


def test_a_cancellation_signed_by_a_client():
    inner = signatures.cancel_hash(TASK_ID)
    assert inner.hex() == "72ab91f348ac7f5184aa8452ff11d7204bd5efdc33b9c1ab9697f63452597260"
    assert signatures.check(CANCEL, inner, address=ADDRESS, subject="it")


def test_a_download_is_signed_over_the_id_without_dashes_and_the_time():
    signature = signed(signatures.hash_of(b"71c84e9ffa0e4ef58d7e8ffc1f2814421700000000"))
    assert signatures.check(
        signature, signatures.download_hash(TASK_ID, 1_700_000_000), address=ADDRESS, subject="it"
    )


def test_an_upload_is_signed_over_the_address_and_the_time():
    signature = signed(signatures.hash_of(f"{ADDRESS}1700000000".encode()))
    assert signatures.check(
        signature, signatures.upload_hash(ADDRESS, 1_700_000_000), address=ADDRESS, subject="it"
    )


def test_every_number_of_leading_zeros_may_be_missing():
    for inner in (b"\0" + b"\1" * 31, b"\0\0" + b"\2" * 30, b"\0" * 32):
        for sent in (signed(inner), signed(inner.lstrip(b"\0"))):
            assert signatures.check(sent, inner, address=ADDRESS, subject="it")


@pytest.mark.parametrize("seconds", [-60, 0, 300])
def test_a_recent_time_is_taken(seconds):
    signatures.check_time(int((NOW - timedelta(seconds=seconds)).timestamp()), now=NOW)


@pytest.mark.parametrize("seconds", [-61, 301, -(10**12), 10**9])
def test_any_other_time_is_refused(seconds):
    with pytest.raises(NotSigned, match="seconds"):
        signatures.check_time(int(NOW.timestamp()) - seconds, now=NOW)


@pytest.mark.parametrize(
    "text", ["", "0x", "1", "0x" + "0" * 129, "0x" + "zz" * 65, "0x" + "0" * 132, "0x" + "f" * 130]
)
def test_what_is_no_signature_is_told_from_a_wrong_one(text):
    with pytest.raises(NotASignature):
        signatures.check(text, b"\1" * 32, address=ADDRESS, subject="it")


@given(st.binary(min_size=65, max_size=65))
def test_no_65_bytes_do_anything_but_fail(numbers):
    with pytest.raises((NotASignature, NotSigned)):
        signatures.check("0x" + numbers.hex(), b"\1" * 32, address=ADDRESS, subject="it")


@given(st.text(max_size=140))
def test_no_text_does_anything_but_fail(text):
    with pytest.raises((NotASignature, NotSigned)):
        signatures.check(text, b"\1" * 32, address=ADDRESS, subject="it")
