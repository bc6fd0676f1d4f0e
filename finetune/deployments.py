"""Which model answers under a name that stays: a finished one takes the name over, and can give it back.

    waiting ──its turn──▶ loading ──a node serves it──▶ live ──a later one──▶ replaced ──a rollback──▶ live
                             └──cannot, too slow──▶ failed └──a rollback──▶ rolled_back
                          refused: another one was under way, or the result is not better than its base

A name is a `Model` without files of its own: requests for it go to its target. It is moved in one transaction, after a
node has said that the new model has answered there; until then, and when that fails, it leads where it led. The
row is the queue: `sweep` moves whatever is open, whoever was killed meanwhile. Locks: the name, then its deployments.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import QuerySet

from clients.models import Client
from finetune import aliases, journal
from finetune.models import Deployment, DeploymentStatus, Job
from gpus.models import Offer
from inference import hosting
from inference.catalogue import ModelNotFound, similar
from inference.models import HostingState, Model
from marketplace.errors import Conflict, MarketplaceError, NotFound

# How long nodes may take to fetch and load a model.
LOAD_WITHIN = timedelta(minutes=30)

OPEN = (DeploymentStatus.WAITING, DeploymentStatus.LOADING)
_PAST = (DeploymentStatus.REPLACED, DeploymentStatus.ROLLED_BACK)


class DeploymentNotFound(NotFound):
    code, message = "deployment_not_found", "There is no such deployment."


class UnderWay(Conflict):
    """Another deployment of the name has not ended. The details name it."""

    code = "deployment_under_way"

    def __init__(self, alias: Model, other: Deployment) -> None:
        super().__init__(
            f"{other.model.name} is being deployed as {alias.name}. Wait for it, or say wait_on_conflict.",
            details={"deployment": other.pk},
        )


class NotDeployable(Conflict):
    code = "not_deployable"


class CannotRollBack(Conflict):
    code = "cannot_roll_back"


class NotLoaded(CannotRollBack):
    """The model before it rests. A node has been asked to load it."""

    def __init__(self, model: Model) -> None:
        super().__init__(
            f"No node has {model.name} loaded now; one was asked to. Try again in a moment.", retry_after=5
        )
        self.model = model


# --- Asked for ----------------------------------------------------------------------------------------------


def of(owner: Client) -> QuerySet[Deployment]:
    """A client's deployments, newest first; an operator finds everybody's."""
    rows = Deployment.objects.select_related("alias", "model", "previous", "job")
    return rows if owner.is_staff else rows.filter(owner=owner)


def find(pk: int, *, owner: Client) -> Deployment:
    """Raises DeploymentNotFound, also for somebody else's."""
    found = of(owner).filter(pk=pk).first()
    if found is None:
        raise DeploymentNotFound
    return found


def model_of(owner: Client, name: str) -> Model:
    """A model of somebody's that can be deployed. Raises ModelNotFound, NotDeployable."""
    own = Model.objects.filter(owner=owner, hidden=False).select_related("owner", "revision__base__model")
    model = own.filter(name=name).first()
    if model is None:
        known = own.filter(is_alias=False).exclude(revision=None).order_by("-id")
        raise ModelNotFound(name, similar(name, known.values_list("name", flat=True)[:500]))
    if model.is_alias or model.revision is None:
        raise NotDeployable(f"{name} is a name for other models. Deploy one that has files.", param="model")
    return model


def start(
    model: Model,
    *,
    now: datetime,
    name: str = "",
    wait_on_conflict: bool = False,
    job: Job | None = None,
) -> Deployment:
    """Have a model (one that `model_of` has found) take over a name of its owner's: see `aliases.name_for`.

    Asked for once more, it is the deployment that it was. Raises AliasRefused, AliasTaken, and UnderWay where another
    one is being deployed and this shall not wait for it.
    """
    with transaction.atomic():
        alias = aliases.locked(aliases.name_for(model, name), model)
        others = list(alias.deployments.filter(status__in=OPEN).select_related("model").order_by("pk"))
        same = next((each for each in others if each.model_id == model.pk), None)
        if same is None and not others and alias.target_id == model.pk:
            same = alias.deployments.filter(status=DeploymentStatus.LIVE, model=model).first()
        if same is not None:
            return same
        if others and not wait_on_conflict:
            raise UnderWay(alias, others[0])
        deployment = _create(alias, model, job, now, wait_on_conflict=wait_on_conflict)
        if others:
            _say(deployment, f"Waits until {others[-1].model.name} is deployed.", now)
        else:
            _load(deployment, now)
        ring()
    return deployment


def _create(
    alias: Model,
    model: Model,
    job: Job | None,
    now: datetime,
    *,
    wait_on_conflict: bool,
    status: DeploymentStatus = DeploymentStatus.WAITING,
) -> Deployment:
    assert model.owner_id is not None
    return Deployment.objects.create(
        alias=alias, model=model, job=job, owner_id=model.owner_id, status=status, created_at=now, changed_at=now,
        wait_on_conflict=wait_on_conflict,
    )  # fmt: skip


def follow(job: Job, *, now: datetime) -> Deployment | None:
    """Deploy what a job has made, where its owner wanted that when it was created.

    What is not better than its base is refused, and so is what meets another deployment and shall not wait. None where
    there is not even a name to say that of; then only the job's log does.
    """
    if not job.deploy or job.result is None:
        return None
    model = job.result.model
    try:
        if not job.is_better:
            return _refuse(job, model, "It is not better than its base on held-out rows.", now)
        return start(model, wait_on_conflict=job.wait_on_conflict, job=job, now=now)
    except UnderWay as error:
        return _refuse(job, model, error.message, now)
    except MarketplaceError as error:
        journal.note(job, f"Not deployed: {error.message}", now=now, level="warn", data={"code": error.code})
        return None


@transaction.atomic
def _refuse(job: Job, model: Model, why: str, now: datetime) -> Deployment:
    alias = aliases.locked(aliases.name_for(model), model)
    deployment = _create(alias, model, job, now, wait_on_conflict=job.wait_on_conflict)
    fix = f'It can be deployed by hand: POST /fine-tuning/deployments {{"model": "{model.name}"}}.'
    _move(deployment, DeploymentStatus.REFUSED, f"{why} {fix}", now)
    return deployment


def ring() -> None:
    """Have a worker look after deployments once this transaction is committed."""
    from finetune import tasks  # noqa: PLC0415 - tasks call verbs

    transaction.on_commit(lambda: tasks.ring(tasks.move_deployments))


# --- On the way ---------------------------------------------------------------------------------------------


def sweep(*, now: datetime) -> int:
    """Move every open deployment as far as it goes now; how many moved."""
    open_ids = Deployment.objects.filter(status__in=OPEN).order_by("pk").values_list("pk", flat=True)
    return sum(advance(pk, now=now) for pk in list(open_ids))


@transaction.atomic
def advance(deployment_id: int, *, now: datetime) -> bool:
    """Move one open deployment as far as it goes now; whether it did."""
    found = _locked(deployment_id)
    if found is None or found.status not in OPEN:
        return False
    if found.status == DeploymentStatus.WAITING:
        if found.alias.deployments.filter(status__in=OPEN, pk__lt=found.pk).exists():
            return False
        _load(found, now)
        return True
    if not _is_there(found.model):
        _move(found, DeploymentStatus.FAILED, "The model was deleted meanwhile.", now)
    elif _is_healthy(found.model):
        _switch(found, now)
    elif (why := _hopeless(found, now)) is not None:
        _move(found, DeploymentStatus.FAILED, f"{why} {_stays(found.alias)}", now)
    else:
        return False
    return True


def _locked(deployment_id: int) -> Deployment | None:
    """A deployment, after its name: everybody locks in this order."""
    known = Deployment.objects.filter(pk=deployment_id).values_list("alias_id", flat=True).first()
    if known is None:
        return None
    alias = aliases.lock(known)
    found = (
        Deployment.objects.select_for_update(no_key=True, of=("self",))
        .select_related("model__revision", "previous", "job")
        .filter(pk=deployment_id)
        .first()
    )
    if found is not None:
        found.alias = alias
    return found


def _load(deployment: Deployment, now: datetime) -> None:
    found = hosting.want(deployment.model, now=now)
    why = (
        "A node was asked to load it."
        if found
        else "Waits for a node that can host it: none that is online can now."
    )
    _move(deployment, DeploymentStatus.LOADING, why, now)


def _is_there(model: Model) -> bool:
    return model.revision is not None and not model.hidden


def _is_healthy(model: Model) -> bool:
    """Whether a node that is online serves it, by its own word after a probe, and offers it to requests."""
    nodes = hosting.serving_nodes(model)
    return Offer.objects.filter(node_id__in=nodes, model=model.name, active=True).exists()


def _hopeless(deployment: Deployment, now: datetime) -> str | None:
    """Why a deployment will not get there, as a sentence; None where it may."""
    model = deployment.model
    hostings = list(model.hostings.order_by("changed_at"))
    failed = [each for each in hostings if each.state == HostingState.FAILED]
    said = f" A node said: {failed[-1].reason}" if failed and failed[-1].reason else ""
    if now - deployment.changed_at > LOAD_WITHIN:
        return f"No node served it within {LOAD_WITHIN.total_seconds() / 60:.0f} minutes.{said}"
    if len(failed) == len(hostings) and hosting.want(model, now=now) is None and failed:
        return f"No node can serve it.{said}"
    return None


def _switch(deployment: Deployment, now: datetime) -> None:
    alias, before = deployment.alias, deployment.alias.target
    aliases.point(alias, deployment.model)
    for other in alias.deployments.filter(status=DeploymentStatus.LIVE).select_related("job", "model"):
        _move(other, DeploymentStatus.REPLACED, f"Replaced by {deployment.model.name}.", now)
    # A name that already led there (somebody went back to it meanwhile) keeps what was before.
    if before is not None and before.pk != deployment.model_id:
        deployment.previous = before
    deployment.live_at = now
    deployment.save(update_fields=["previous", "live_at"])
    instead = f" instead of {before.name}" if before is not None and before.pk != deployment.model_id else ""
    _move(deployment, DeploymentStatus.LIVE, f"{alias.name} leads to it{instead}.", now)
    ring()  # for the one that waits


def _stays(alias: Model) -> str:
    return (
        f"{alias.name} still leads to {alias.target.name}."
        if alias.target
        else f"{alias.name} leads nowhere."
    )


def _move(deployment: Deployment, status: DeploymentStatus, reason: str, now: datetime) -> None:
    deployment.status = status
    _say(deployment, reason, now)
    if deployment.job is not None and status != DeploymentStatus.LOADING:
        level = "warn" if status in (DeploymentStatus.FAILED, DeploymentStatus.REFUSED) else "info"
        said = f"Deployment as {deployment.alias.name}: {status.value.replace('_', ' ')}. {deployment.reason}"
        data = {"deployment": deployment.pk, "status": status.value}
        journal.note(deployment.job, said, now=now, level=level, data=data)


def _say(deployment: Deployment, reason: str, now: datetime) -> None:
    deployment.reason, deployment.changed_at = reason[:1000], now
    deployment.save(update_fields=["status", "reason", "changed_at"])


# --- And back -----------------------------------------------------------------------------------------------


def roll_back(deployment: Deployment, *, now: datetime, by: Client, why: str = "") -> Deployment:
    """Let a live deployment's name lead to the model before it again, at once.

    Raises CannotRollBack where it is not live, nothing was before it, or that is gone, and NotLoaded.
    """
    try:
        return _rolled_back(deployment, now, by, why)
    except NotLoaded as error:
        hosting.want(error.model, now=now)
        raise


@transaction.atomic
def _rolled_back(deployment: Deployment, now: datetime, by: Client, why: str) -> Deployment:
    found = _locked(deployment.pk)
    if found is None:
        raise DeploymentNotFound
    target = _way_back(found)
    aliases.point(found.alias, target)
    whose = "its owner" if by.pk == found.owner_id else "the operator"
    said = f"Taken back by {whose}" + (f": {why}" if why else ".")
    _move(found, DeploymentStatus.ROLLED_BACK, f"{said} {found.alias.name} leads to {target.name}.", now)
    before = found.alias.deployments.filter(model=target, status__in=_PAST).exclude(pk=found.pk).first()
    if before is not None:
        _move(before, DeploymentStatus.LIVE, f"{found.model.name} was taken back.", now)
    return found


def _way_back(deployment: Deployment) -> Model:
    previous = deployment.previous
    if deployment.status != DeploymentStatus.LIVE:
        raise CannotRollBack(f"This deployment is not live but {deployment.status}.")
    if previous is None or not _is_there(previous):
        raise CannotRollBack(f"There is no model before it to go back to: {_was(deployment)}.")
    if not _is_healthy(previous):
        raise NotLoaded(previous)
    return previous


def _was(deployment: Deployment) -> str:
    earlier = deployment.alias.deployments.filter(pk__lt=deployment.pk, live_at__isnull=False).exists()
    return "it was deleted" if deployment.previous or earlier else "it was the first under its name"
