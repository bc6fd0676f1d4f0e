"""What the tests of fine-tuning share."""

from typing import Any

import pytest

from clients.models import Wallet
from tests.finetune import asked, made, wallets
from tests.finetune.wallets import ADDRESS, TASKS


@pytest.fixture
def wallet(alice: Any, operator: Any) -> Wallet:
    """alice's wallet, linked to her account, which can pay; training costs something."""
    asked.ask(operator)
    made.fund(alice, 1000)
    return Wallet.objects.create(client=alice, address=ADDRESS.lower())


@pytest.fixture
def model_hash(db: None) -> str:
    revision = asked.model("toy").revision
    assert revision is not None
    return revision.model_hash


@pytest.fixture
def dataset_hash(alice: Any) -> str:
    return f"0x{asked.upload(alice, asked.chats()).keccak256}"


@pytest.fixture
def task(wallet: Wallet, model_hash: str, dataset_hash: str) -> Any:
    """`task()`: the body of a new task, signed by alice's wallet; `task(fee=5)`: another one."""
    return lambda **said: wallets.task(**{"model_hash": model_hash, "dataset_hash": dataset_hash} | said)


@pytest.fixture
def post(api: Any) -> Any:
    """`post(task())` creates it, with no credential."""
    return lambda body, path=TASKS, **headers: api().post(path, body, headers=headers or None)
