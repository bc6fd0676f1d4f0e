"""Fine-tuning for wallets: tasks that a wallet has signed, paid by the account that the wallet is linked to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Max, QuerySet
from eth_utils import to_checksum_address

from clients.models import Client, Wallet
from finetune import bases, broker_parameters, datasets, jobs, journal, ordering, quotes, signatures
from finetune.models import Dataset, Face, Job, JobStatus
from finetune.ordering import Wanted
from finetune.signatures import NotSigned
from inference.models import Revision
from marketplace.errors import Conflict, Forbidden, InvalidRequest, NotFound

_NUMBER = re.compile(r"[+-]?[0-9]{1,78}")


class WalletNotLinked(Forbidden):
    code = "wallet_not_linked"


class InvalidNonce(InvalidRequest):
    code = "invalid_nonce"


class InsufficientFee(InvalidRequest):
    code = "insufficient_task_fee"


class TaskNotFound(NotFound):
    code, message = "task_not_found", "task not found: this wallet has no task with this id."


class NotDelivered(Conflict):
    code = "not_delivered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """The fields of a task as they were sent; `fee` and `nonce` are decimal numbers."""

    userAddress: str
    preTrainedModelHash: str
    datasetHash: str
    trainingParams: str
    fee: str
    nonce: str
    signature: str
    wait: bool = False

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def create(said: Said, *, now: datetime) -> Job:
    """Begin a task: everything is checked before anything is kept, and the quote is held on the owner's account.

    Raises NotASignature, NotSigned, WalletNotLinked, InvalidNonce, InsufficientFee, WrongTrainingParams,
    ModelNotFound, and whatever `quotes.make` and `ledger.hold` do.
    """
    nonce, fee = _number(said.nonce, "nonce"), _number(said.fee, "fee")
    signed = signatures.check_task(
        said.signature, address=said.userAddress, nonce=nonce, dataset_hash=said.datasetHash, fee=fee
    )
    owner = owner_of(said.userAddress)
    _check_nonce(said.userAddress, nonce)
    base = bases.find(said.preTrainedModelHash, owner=owner)
    dataset = datasets.by_hash(said.datasetHash, owner=owner)
    read = _parameters(said, base, dataset, is_strict=not signed.with_fee)
    wanted = Wanted(owner=owner, model=said.preTrainedModelHash, dataset=dataset.uid, asked=read.asked)
    prepared = ordering.quoted(wanted, base=base, dataset=dataset, now=now)
    # Who signs no fee, or does not say any, leaves it to the quote.
    if (signed.with_fee or fee) and fee < prepared.quote.price:
        raise InsufficientFee(
            f"insufficient task fee: expected {prepared.quote.price}, got {fee} (both in 1e-18 of a token).",
            details={"expected": str(prepared.quote.price)},
        )
    order = prepared.order(
        Face.BROKER, seed=read.seed, said=said.to_json(), wallet=said.userAddress.lower(), nonce=nonce
    )
    with transaction.atomic():
        _lock_nonces(said.userAddress)
        _check_nonce(said.userAddress, nonce)
        job = jobs.start(order, now=now)
        if read.ignored:
            ignored = f"Ignored in trainingParams: {', '.join(read.ignored[:50])}."
            journal.note(job, ignored, now=now, level="warn")
    return job


def _lock_nonces(address: str) -> None:
    """One task at a time for each wallet, so that nonces only go up."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('nonce:' || %s, 0))", [address.lower()])


def _number(text: str, name: str) -> int:
    number = int(text) if _NUMBER.fullmatch(text) else -1
    if not 0 <= number <= signatures.MOST_UINT256:
        raise InvalidRequest(
            f"{name} must be a text with a whole decimal number from 0 to 2^256-1.",
            code=f"invalid_{name}",
            param=name,
        )
    return number


def owner_of(address: str) -> Client:
    """The account that a wallet is linked to. Raises WalletNotLinked."""
    wallet = Wallet.objects.filter(address=address.lower()).select_related("client").first()
    if wallet is None or not wallet.client.is_active:
        raise WalletNotLinked(
            f"The wallet {address} is not linked to an account here, so that nobody would pay. Register "
            "(POST /client/register/), then link it: POST /client/wallets/challenge/, sign the message with the "
            "wallet, POST /client/wallets/."
        )
    return wallet.client


def _check_nonce(address: str, nonce: int) -> None:
    last = Job.objects.filter(wallet=address.lower()).aggregate(last=Max("nonce"))["last"]
    if nonce <= (last or 0):
        raise InvalidNonce(
            f"invalid nonce: expected more than {int(last or 0)}, got {nonce}. Each task of a wallet needs a larger "
            "one, such as the time in milliseconds times 10000.",
            param="nonce",
            details={"last": str(int(last or 0))},
        )


def _parameters(said: Said, base: Revision, dataset: Dataset, *, is_strict: bool) -> broker_parameters.Read:
    method = quotes.method_of(base)
    quotes.check_dataset(dataset, method)
    kind = "scored_pairs" if dataset.summary.get("scored") else dataset.format
    rows = int(dataset.summary["rows"])
    read = broker_parameters.read(said.trainingParams, method=method, rows=rows, kind=kind)
    if is_strict and read.ignored:
        raise broker_parameters.WrongTrainingParams(
            f"trainingParams has fields that mean nothing here: {', '.join(read.ignored[:20])}. Leave them out.",
            param="trainingParams",
        )
    return read


def of(address: str) -> QuerySet[Job]:
    """A wallet's tasks, newest first."""
    return Job.objects.filter(face=Face.BROKER, wallet=address.lower()).order_by("-id")


def find(uid: UUID, *, address: str) -> Job:
    """Raises TaskNotFound, also for another wallet's."""
    found = of(address).select_related("result__model", "base__model", "owner").filter(uid=uid).first()
    if found is None:
        raise TaskNotFound
    return found


def cancel(uid: UUID, *, address: str, signature: str, now: datetime) -> Job:
    """End a task that its wallet wants ended. Raises TaskNotFound, NotSigned, WrongState."""
    signatures.check(signature, signatures.cancel_hash(uid), address=address, subject="the cancellation")
    return jobs.cancel(find(uid, address=address), now=now)


def deliver(uid: UUID, *, address: str, signature: str, timestamp: int, now: datetime) -> Job:
    """A task whose result its wallet asks for. Raises NotSigned, TaskNotFound, NotDelivered."""
    signatures.check_time(timestamp, now=now)
    inner = signatures.download_hash(uid, timestamp)
    signatures.check(signature, inner, address=address, subject="the download")
    job = find(uid, address=address)
    if job.status != JobStatus.SUCCEEDED or job.result is None:
        raise NotDelivered(f"The task has no result (yet): it is {job.get_status_display()}. {job.reason}")
    return job


def uploader(address: str, *, signature: str, timestamp: int, now: datetime) -> Client:
    """Whose account a dataset is for that a wallet uploads. Raises NotSigned, WalletNotLinked."""
    signatures.check_time(timestamp, now=now)
    # Clients sign the address in the spelling that they have.
    for spelling in dict.fromkeys((address, to_checksum_address(address), address.lower())):
        inner = signatures.upload_hash(spelling, timestamp)
        if signatures.signer_key(signature, inner, address=address) is not None:
            return owner_of(address)
    raise NotSigned(f"signature verification failed: the upload must be signed by the wallet {address}.")


def pending() -> int:
    """How many tasks wait or run."""
    return Job.objects.filter(status__in=(JobStatus.PENDING, JobStatus.RUNNING)).count()
