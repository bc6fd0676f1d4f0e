"""Whether a node gets work, and why not: a machine word, a sentence, a fix.

Nothing here reads a clock, a row or a setting, so that every process can ask for thousands of nodes each
second. Instants are seconds since the epoch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

# The words of gpus.models.NodeState, which needs Django.
ONLINE, DRAINING, MAINTENANCE, UNREACHABLE = "online", "draining", "maintenance", "unreachable"
SILENT, OUTDATED, PENDING, SUSPENDED = "silent", "outdated", "pending", "suspended"


@dataclass(slots=True)
class NodeFacts:
    """What is known of a node. `has_link`: a living gateway holds the agent's connection (pull only)."""

    provider_status: str
    delivery: str = "pull"
    agent_version: str = ""
    has_link: bool = False
    last_heartbeat_at: float | None = None
    unreachable_since: float | None = None
    unreachable_why: str = ""
    drain_requested: bool = False
    draining: bool = False
    maintenance: bool = False
    suspended_at: float | None = None
    suspended_reason: str = ""
    provider_reason: str = ""
    owner_active: bool = True


@dataclass(frozen=True, slots=True)
class Liveness:
    """A node's state with its reason for people and what its owner can do about it ("" when nothing)."""

    state: str
    reason: str
    fix: str = ""
    takes_work: bool = False


def assess(
    facts: NodeFacts, *, now: float, silent_after_s: float, minimum_agent_version: str = ""
) -> Liveness:
    """The first thing that stops the node, in the order in which its owner would have to remove them.

    An agent that names no version is not held back by `minimum_agent_version`: it speaks the documented
    API and is somebody else's program.
    """
    if facts.suspended_at is not None or facts.provider_status != "approved" or not facts.owner_active:
        return _not_admitted(facts)
    if facts.agent_version and _version(facts.agent_version) < _version(minimum_agent_version):
        return _outdated(facts.agent_version, minimum_agent_version)
    if facts.last_heartbeat_at is None or now - facts.last_heartbeat_at > silent_after_s:
        return _silent(facts.last_heartbeat_at, silent_after_s)
    if facts.unreachable_since is not None or (facts.delivery == "pull" and not facts.has_link):
        return _unreachable(facts)
    if facts.maintenance:
        return _MAINTENANCE
    if facts.drain_requested:
        return _DRAIN_REQUESTED
    if facts.draining:
        return _DRAINING
    return _ONLINE


_ONLINE = Liveness(ONLINE, "It calls in time, and we can reach it.", takes_work=True)
_MAINTENANCE = Liveness(
    MAINTENANCE,
    "Its owner has taken it out of service for maintenance.",
    "End the maintenance at the agent when the machine is ready.",
)
_DRAIN_REQUESTED = Liveness(
    DRAINING,
    "It was asked to finish what runs and to take no new work.",
    "Cancel the drain (“resume”) when it shall take work again.",
)
_DRAINING = Liveness(
    DRAINING,
    "The agent finishes what runs and takes no new work.",
    "Nothing, if you are stopping it. Otherwise start the agent again.",
)


def _not_admitted(facts: NodeFacts) -> Liveness:
    if facts.suspended_at is not None:
        why = facts.suspended_reason or "no reason was given"
        return Liveness(SUSPENDED, f"An operator suspended this node: {why}", _ASK)
    if not facts.owner_active:
        return Liveness(SUSPENDED, "The account of its owner is closed.", _ASK)
    return _PROVIDER.get(facts.provider_status, _never_asked)(facts.provider_reason)


_ASK = "Put right what the reason names, then ask the operators to resume it."


def _never_asked(_why: str) -> Liveness:
    return Liveness(
        PENDING, "Its owner is not a provider yet.", "Register the node again: this asks for approval."
    )


def _waiting(_why: str) -> Liveness:
    return Liveness(
        PENDING,
        "An operator has yet to approve its owner as a provider.",
        "Wait for the approval. Leave the agent running: the node gets work as soon as it is given.",
    )


def _refused(why: str) -> Liveness:
    reason = f"An operator refused its owner as a provider: {why or 'no reason was given'}"
    return Liveness(PENDING, reason, "Put right what the reason names, then ask to become a provider again.")


def _provider_suspended(why: str) -> Liveness:
    return Liveness(SUSPENDED, f"An operator suspended its owner: {why or 'no reason was given'}", _ASK)


_PROVIDER: dict[str, Callable[[str], Liveness]] = {
    "none": _never_asked,
    "pending": _waiting,
    "refused": _refused,
    "suspended": _provider_suspended,
}


@lru_cache(maxsize=256)
def _outdated(version: str, minimum: str) -> Liveness:
    return Liveness(
        OUTDATED,
        f"The agent's version is {version}; the oldest that still gets work is {minimum}.",
        f"Update the agent to {minimum} or later and start it again.",
    )


def _silent(last_heartbeat_at: float | None, silent_after_s: float) -> Liveness:
    if last_heartbeat_at is None:
        return Liveness(SILENT, "It has registered, but it has never called.", _START_AGENT)
    return Liveness(
        SILENT,
        f"It stopped calling: the last heartbeat came at {clock(int(last_heartbeat_at))}, and after "
        f"{silent_after_s:g} s without one a node counts as silent.",
        _START_AGENT,
    )


_START_AGENT = (
    "Check that the machine is on and online, and that the agent runs; its log says why it cannot call."
)


def _unreachable(facts: NodeFacts) -> Liveness:
    if facts.unreachable_since is not None:
        at, why = clock(int(facts.unreachable_since)), facts.unreachable_why or "no answer"
        return Liveness(
            UNREACHABLE, f"It calls us, but we cannot call it since {at}: {why}", _CALLABLE[facts.delivery]
        )
    return _NO_LINK


_CALLABLE = {
    "push": "Check that the push URL is right and open to us, and that the server behind it runs. "
    "If the machine is behind a router, use pull.",
    "pull": "Check that nothing between the agent and us cuts long WebSocket connections; "
    "the agent's log says more.",
}
_NO_LINK = Liveness(
    UNREACHABLE,
    "It calls us, but the connection over which it would get requests is down.",
    _CALLABLE["pull"],
)


@lru_cache(maxsize=4096)
def clock(second: int) -> str:
    """An instant for people, in UTC."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@lru_cache(maxsize=256)
def _version(text: str) -> tuple[int, ...]:
    """ "1.10.0" as (1, 10, 0). What follows the numbers ("0rc1", "+local") does not count."""
    numbers = []
    for part in text.split("+")[0].lstrip("v").split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits[:9]))
    return (*numbers, 0, 0, 0)[:3]
