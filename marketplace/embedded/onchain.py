"""The chain in front of the user: somebody who has a wallet and no account pays for an answer of our nodes.

All of it through `chain.client`, as anybody would, and over HTTP. The wallet is one of the development chain's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from chain.client import (
    ChainConfig,
    DeliveryMethod,
    ImageEnvironments,
    SourceInfo,
    TaskInfo,
    TaskInput,
    confirm_response,
    get_confirmed_response,
    get_source,
    get_task_responses,
    publish_source,
    publish_task,
    treasury,
    vault_balance,
)
from chain.client.errors import ChainError
from chain.client.types import Response, SourceStatus
from chain.devnet.accounts import development_accounts
from marketplace.embedded.consumer import Consumer, Unanswered

PROMPT = "Is anybody there?"
DEPOSIT, PAYMENT = 5 * 10**18, 10**16
ANSWERED_WITHIN_S, TASK_LIVES_S, LOOK_AGAIN_S = 60, 600, 0.2
WALLET = development_accounts()[5]


def tell(consumer: Consumer, provider: Consumer, *, model: str) -> None:
    """A deposit, and a task from its publication to the provider's income. Raises Unanswered."""
    network = next((each for each in _networks(consumer) if each["is_default"]), None)
    if network is None or not network["rpc_url"]:
        print("\n  chain   none whose node everybody may ask; a task on it is not shown here", flush=True)
        return
    ChainConfig.use(network)
    try:
        print(f"\n  chain   {network['name']} ({network['chain_id']}), block {network['head']}")
        show_deposit(consumer)
        source = source_for(consumer, model)
        show_task(provider, source, model)
    except ChainError as error:
        raise Unanswered(f"{type(error).__name__}: {error}") from None


def show_deposit(consumer: Consumer) -> None:
    """Coins on the chain become money in an account."""
    ways: Any = consumer.get("/chain/deposits/address/")
    way = ways[0]
    before = _balance(consumer)
    sent = treasury.deposit(way["account_number"], DEPOSIT, WALLET.private_key)
    print(f"  deposit {_coins(DEPOSIT)} to the Treasury {way['treasury']}, transaction {sent[:10]}…")
    began = time.monotonic()
    _eventually(lambda: _balance(consumer) >= before + 5, "The deposit was not credited.")
    print(
        f"          credited {time.monotonic() - began:.1f} s later: {before} → {_balance(consumer)}",
        flush=True,
    )


def source_for(consumer: Consumer, model: str) -> str:
    """A source that our nodes serve with a model: that of the last start, or a new one."""
    known: Any = consumer.get("/chain/sources/?status=active")
    for found in known:
        if (found["client"], found["name"]) == (WALLET.address, model) and get_source(
            found["address"]
        ).status == SourceStatus.ACTIVE:
            return str(found["address"])
    info = SourceInfo(
        name=model,
        description="Answers chat completions.",
        logoUrl="",
        imageEnvs=ImageEnvironments(cpu=f"{consumer.url}/chain/services/{model}/"),
        minPayment=PAYMENT // 10,
        minAvailableLockup=0,
        maxExpiryDuration=86_400,
        deliveryMethod=DeliveryMethod.MANUAL_CONFIRMATION,
    )
    source = publish_source(info, WALLET.private_key)
    print(f"  source  {source}: {model}")
    return source


def show_task(provider: Consumer, source: str, model: str) -> None:
    """Published, answered by a node, confirmed by the wallet, paid."""
    task_input = TaskInput(
        function_name="chat",
        data={"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 60},
    )
    earned_before, vault_before = _earned(provider), 0
    info = TaskInfo(
        source=source, config=task_input, expiryTime=int(time.time()) + TASK_LIVES_S, payment=PAYMENT
    )
    began = time.monotonic()
    task = publish_task(info, WALLET.private_key, auto_deposit=True)
    vault_before = vault_balance(WALLET.address)
    print(f"  task    {task}: chat, pays {_coins(PAYMENT)}\n          {PROMPT}", flush=True)
    response: Response = _eventually(
        lambda: next(iter(get_task_responses(task)), None), "Nobody answered the task."
    )
    answer = _answer_of(response, provider)
    print(
        f"          answered after {time.monotonic() - began:.1f} s by {response.provider}\n  {model}  {answer}"
    )
    confirm_response(response.address, WALLET.private_key)
    confirmed = _eventually(lambda: _confirmed(task), "The response is not confirmed.")
    if confirmed.address != response.address:
        raise Unanswered(f"{confirmed.address} is confirmed, and {response.address} was to be.")
    _eventually(lambda: _earned(provider) > earned_before, "The provider was not paid.")
    income = _earned(provider) - earned_before
    print(
        f"          confirmed; the Vault paid {_coins(PAYMENT)}, the provider's ledger has {income} more, "
        f"the wallet {_coins(vault_before)} left in the Vault",
        flush=True,
    )


def _answer_of(response: Response, consumer: Consumer) -> str:
    """The answer itself: the response on the chain is a link to it."""
    said = consumer.get(response.data.removeprefix(consumer.url))
    try:
        return str(said["choices"][0]["message"]["content"]).replace("\n", " ")
    except (KeyError, IndexError, TypeError):
        raise Unanswered(f"The response says no answer: {json.dumps(said)[:500]}") from None


def _confirmed(task: str) -> Any:
    try:
        return get_confirmed_response(task)
    except ChainError:
        return None


def _networks(consumer: Consumer) -> list[dict[str, Any]]:
    found: Any = consumer.get("/chain/networks/")
    return list(found)


def _balance(consumer: Consumer) -> Decimal:
    return Decimal(consumer.get("/account/balance")["balance"])


def _earned(provider: Consumer) -> Decimal:
    """All that on-chain tasks have brought this provider, after the fee."""
    moved: Any = provider.get("/account/transactions?kind=onchain&limit=100")
    return sum((Decimal(each["amount"]) for each in moved), Decimal(0))


def _coins(amount: int) -> str:
    return f"{Decimal(amount) / 10**18:f}"


def _eventually(look: Callable[[], Any], otherwise: str) -> Any:
    """What `look` finds as soon as it finds something. Raises Unanswered with `otherwise`."""
    deadline = time.monotonic() + ANSWERED_WITHIN_S
    while not (found := look()):
        if time.monotonic() > deadline:
            raise Unanswered(f"{otherwise} ({ANSWERED_WITHIN_S} s)")
        time.sleep(LOOK_AGAIN_S)
    return found
