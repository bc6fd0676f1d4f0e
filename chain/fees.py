"""What gas is paid: fees by EIP-1559, within a limit. All in base units per gas."""

from __future__ import annotations

from dataclasses import dataclass

# A node takes a transaction in place of another where both fees are higher by a tenth (geth); we raise an eighth.
_RAISE = (9, 8)
# Some room above what the contract needs now: it may find another state when it is carried out.
_MARGIN = (5, 4)
_EXTRA_GAS = 10_000
PLAIN_SENDING = 21_000


@dataclass(frozen=True, slots=True)
class Fees:
    """The most that a unit of gas may cost, and what of it the validator gets."""

    max_fee: int
    priority_fee: int


def usual(*, base_fee: int, tip: int, limit: int) -> Fees | None:
    """Fees that stay good while the base fee doubles; None where the base fee alone is above the limit."""
    if base_fee > limit:
        return None
    max_fee = min(2 * base_fee + tip, limit)
    return Fees(max_fee, min(tip, max_fee))


def raised(before: Fees, *, base_fee: int, tip: int, limit: int) -> Fees | None:
    """Fees that replace a transaction with these; None where the limit does not allow it."""
    lowest = _more(before.max_fee)
    if lowest > limit:
        return None
    max_fee = min(max(2 * base_fee + tip, lowest), limit)
    return Fees(max_fee, min(max(tip, _more(before.priority_fee)), max_fee))


def gas_limit(estimated: int) -> int:
    """The limit for what needs so much gas by the node's estimate."""
    if estimated <= PLAIN_SENDING:
        return estimated
    return estimated * _MARGIN[0] // _MARGIN[1] + _EXTRA_GAS


def _more(fee: int) -> int:
    return max(-(-fee * _RAISE[0] // _RAISE[1]), fee + 1)
