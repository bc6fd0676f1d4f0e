"""Which logs a client asks for: eth_getLogs' filter object."""

from collections.abc import Callable, Sequence
from typing import Any

from chain.devnet.errors import invalid, refused
from chain.devnet.formats import data, parse_address, parse_data
from chain.devnet.store import LogQuery

MOST_TOPICS = 4
# Values of one position, or addresses: SQLite takes 32,766 variables, nobody needs that many.
MOST_VALUES = 1_000


def parse_query(
    criteria: Any, *, number: Callable[[Any], int], number_of_hash: Callable[[str], int | None]
) -> LogQuery:
    if not isinstance(criteria, dict):
        raise invalid("invalid argument: the filter must be an object")
    if "blockHash" in criteria:
        found = number_of_hash(data(parse_data(criteria["blockHash"], "blockHash", 32)))
        if found is None:
            raise refused("unknown block")
        first = last = found
    else:
        first, last = number(criteria.get("fromBlock", "latest")), number(criteria.get("toBlock", "latest"))
    return LogQuery(
        first, last, addresses=_addresses(criteria.get("address")), topics=_topics(criteria.get("topics"))
    )


def _addresses(value: Any) -> Sequence[str] | None:
    if value is None or value == []:
        return None
    return [data(parse_address(address)) for address in _bounded(value)]


def _topics(value: Any) -> list[Sequence[str] | None]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MOST_TOPICS:
        raise invalid("invalid argument: topics must be a list of at most four")
    return [_topic(accepted) for accepted in value]


def _topic(accepted: Any) -> Sequence[str] | None:
    """One position: None for any value, one value, or several."""
    if accepted is None or accepted == []:
        return None
    return [data(parse_data(topic, "topic", 32)) for topic in _bounded(accepted)]


def _bounded(value: Any) -> list[Any]:
    found = value if isinstance(value, list) else [value]
    if len(found) > MOST_VALUES:
        raise invalid(f"invalid argument: at most {MOST_VALUES} values")
    return found
