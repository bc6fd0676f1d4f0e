"""Tasks: work that is asked for, and paid from the Vault."""

import time
from collections.abc import Callable
from typing import Any

from chain.client.blocking import operation
from chain.client.chain_config import Network
from chain.client.errors import (
    InsufficientBalance,
    InvalidValue,
    NoSuchTask,
    NotEnoughInVault,
    PaymentTooLow,
    SourceInactive,
    TaskExpired,
)
from chain.client.interface import ZERO_ADDRESS, Undecodable, checksum
from chain.client.keys import PrivateKey
from chain.client.logs import created
from chain.client.pinning import TIMEOUT as PIN_SECONDS
from chain.client.pinning import pin
from chain.client.sending import RECEIPT_SECONDS, Call, Receipt, transact
from chain.client.source import described, no_source, source_views
from chain.client.steps import Steps
from chain.client.types import DeliveryMethod, SourceStatus, Task, TaskInfo, TaskStatus
from chain.client.views import Session, View, chosen_network, opened, read, read_checked

# How often a deposit is repeated for one task, where others spend from the same Vault account meanwhile.
DEPOSITS = 3


@operation
def publish_task(
    task_info: TaskInfo,
    private_key: PrivateKey | None = None,
    *,
    auto_deposit: bool = False,
    network: Network | None = None,
    pin_timeout: float = PIN_SECONDS,
    receipt_timeout: float = RECEIPT_SECONDS,
    total_timeout: float | None = None,
) -> Steps[str]:
    """Publish a task to the Controller contract; the address of the created task contract.

    The payment is taken from the signer's balance in the Vault, not from the wallet: see `deposit`.

    Args:
        task_info: TaskInfo object containing task configuration
        private_key: Private key for signing the transaction. If None, will use CLIENT_PRIVATE_KEY environment variable.
        auto_deposit: deposit what is missing in the Vault first
        network: another network than `ChainConfig`'s
        pin_timeout, receipt_timeout: for uploading the configuration, and for being mined, in seconds
        total_timeout: for the whole call; nothing is sent after it

    One call makes one task at most, whatever happens on the way. Raises `NotEnoughInVault`, `TaskExpired` and others of
    `ChainError`, before gas is paid wherever that can be known.
    """
    source = checksum(task_info.source, "TaskInfo.source")
    _check(task_info)
    session = yield from opened(private_key, network, total_timeout=total_timeout)
    missing = yield from _missing(session, task_info, source)
    if missing and not auto_deposit:
        raise missing
    config = task_info.config.to_dict()
    link = yield from pin(
        session.network, config, "taskConfig.json", deadline=session.deadline, timeout=pin_timeout
    )
    params = (source, link, task_info.expiryTime, task_info.payment)
    call = Call("Controller", session.network.contract("CONTROLLER"), "publishTask", (params,))
    send = _Publication(session, call, receipt_timeout, lambda: _check(task_info))
    receipt = yield from send.with_deposits(missing) if auto_deposit else send.once()
    return created(session.network, receipt, "TaskPublished", "task")


class _Publication:
    def __init__(
        self, session: Session, call: Call, receipt_timeout: float, check: Callable[[], None]
    ) -> None:
        self._session, self._call = session, call
        self._receipt_timeout, self._check = receipt_timeout, check

    def once(self) -> Steps[Receipt]:
        # The configuration may have taken its time.
        self._check()
        return (
            yield from transact(
                self._session, self._call, receipt_timeout=self._receipt_timeout, before_send=self._check
            )
        )

    def with_deposits(self, missing: NotEnoughInVault | None) -> Steps[Receipt]:
        """Another publisher of the same key may spend a deposit before its task is there; then once more."""
        for _ in range(DEPOSITS):
            if missing is not None:
                yield from transact(self._session, deposit_call(self._session, missing.missing))
            try:
                return (yield from self.once())
            except InsufficientBalance:
                payment = int(self._call.arguments[0][3])
                missing = (yield from _shortage(self._session, payment)) or missing
        return (yield from self.once())


@operation
def cancel_task(
    task: str, private_key: PrivateKey | None = None, *, network: Network | None = None
) -> Steps[str]:
    """Take a task back that nobody has attempted, or that has expired; the transaction's hash. The payment returns."""
    session = yield from opened(private_key, network)
    call = Call("Controller", session.network.contract("CONTROLLER"), "cancelTask", (checksum(task, "task"),))
    return (yield from transact(session, call)).tx_hash


@operation
def get_task(task: str, *, network: Network | None = None) -> Steps[Task]:
    """A task as it stands on the chain, in one round trip. Raises `NoSuchTask`."""
    address = checksum(task, "task")
    chosen = yield from chosen_network(network)
    views = [
        View("Task", address, name)
        for name in ("taskParams", "getStatus", "getDeliveryMethod", "getAttemptCount", "winningProvider")
    ]
    try:
        params, status, delivery, attempts, winner = yield from read(chosen, views)
    except Undecodable:
        raise no_task(address, chosen) from None
    source, config, expiry, payment = params
    return Task(
        address=address,
        source=source,
        config=config,
        expiryTime=expiry,
        payment=payment,
        status=TaskStatus(status),
        deliveryMethod=DeliveryMethod(delivery),
        attempts=attempts,
        winningProvider=None if winner == ZERO_ADDRESS else winner,
    )


def no_task(address: str, network: Network) -> NoSuchTask:
    return NoSuchTask(f"There is no task at {address} on {network.name}.")


def deposit_call(session: Session, amount: int) -> Call:
    account = session.signer.address
    return Call("Vault", session.network.contract("VAULT"), "deposit", (account,), value=amount)


def _check(info: TaskInfo) -> None:
    """A task that has expired would be paid for and never be worked on."""
    for name, value in (("expiryTime", info.expiryTime), ("payment", info.payment)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InvalidValue(f"TaskInfo.{name} is a whole number, not {value!r}.")
    now = int(time.time())
    if info.expiryTime <= now:
        raise TaskExpired(
            f"expiryTime {info.expiryTime} has passed (it is {now}); nothing was sent.", reason="Expired"
        )


def _missing(session: Session, info: TaskInfo, source: str) -> Steps[NotEnoughInVault | None]:
    """One round trip before anything is uploaded: the right chain, a source that takes the task, and the Vault."""
    views: list[View] = source_views(source) + _balance_views(session)
    try:
        status, params, *balance = yield from read_checked(session, views)
    except Undecodable:
        raise no_source(source, session.network) from None
    found = described(source, status, params)
    if found.status is not SourceStatus.ACTIVE:
        raise SourceInactive(f"The source {source} is inactive.", reason="SourceInactive")
    if info.payment < found.minPayment:
        raise PaymentTooLow(
            f"The source {source} asks for {found.minPayment} wei, and the task offers {info.payment}.",
            reason="PaymentTooLow",
        )
    return _compared(session, info.payment, balance)


def _shortage(session: Session, payment: int) -> Steps[NotEnoughInVault | None]:
    balance = yield from read_checked(session, _balance_views(session))
    return _compared(session, payment, balance)


def _balance_views(session: Session) -> list[View]:
    """Configurations of the older SDK know no Vault; its contracts refuse by themselves."""
    vault = session.network.contracts.get("VAULT")
    return [View("Vault", vault, "getBalanceOf", (session.signer.address,))] if vault else []


def _compared(session: Session, payment: int, balance: list[Any]) -> NotEnoughInVault | None:
    if not balance or balance[0] >= payment:
        return None
    return NotEnoughInVault(account=session.signer.address, required=payment, available=balance[0])
