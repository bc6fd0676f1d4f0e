"""Asking a node several things at once, whatever it takes at once."""

from typing import Any

import pytest
import requests

from chain.ethereum import Ethereum, Fault, NodeAway


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Ethereum:
    """It takes four questions at once, and says what it was asked."""
    made = Ethereum("http://127.0.0.1:1", timeout_s=1)
    made.sizes = []  # type: ignore[attr-defined]

    def answer(asked: list[tuple[str, Any]]) -> Any:
        made.sizes.append(len(asked))  # type: ignore[attr-defined]
        if len(asked) > 4:
            return {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "batch too large"}}
        return [{"jsonrpc": "2.0", "id": 1, "result": [method, *params]} for method, params in asked]

    monkeypatch.setattr(made._provider, "make_batch_request", answer)
    return made


QUESTIONS = [("eth_getBlockByNumber", [number]) for number in range(40)]


def test_a_node_that_takes_little_at_once_is_asked_in_parts(node: Ethereum) -> None:
    expected = [[method, *params] for method, params in QUESTIONS]
    assert node.ask(QUESTIONS) == expected
    assert node.sizes == [40, 10] + [2] * 20  # type: ignore[attr-defined]
    assert node.ask(QUESTIONS[:2]) == expected[:2]


@pytest.mark.parametrize("status", [400, 413])
def test_a_server_before_the_node_may_find_it_too_large(
    node: Ethereum, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    answer = node._provider.make_batch_request

    def refuse(asked: Any) -> Any:
        if len(asked) > 4:
            response = requests.Response()
            response.status_code = status
            raise requests.HTTPError(response=response)
        return answer(asked)

    monkeypatch.setattr(node._provider, "make_batch_request", refuse)
    assert len(node.ask(QUESTIONS)) == 40


@pytest.mark.parametrize(
    "said",
    [
        {"error": {"code": -1, "message": "no"}},
        [],
        ["x"],
        [{"jsonrpc": "2.0"}],
        [None],
        None,
        "x",
        requests.ConnectionError(),
        requests.ReadTimeout(),
        ValueError("no JSON"),
    ],
)
def test_nonsense_and_silence_are_a_node_that_is_away(
    node: Ethereum, monkeypatch: pytest.MonkeyPatch, said: Any
) -> None:
    def answer(asked: Any) -> Any:
        if isinstance(said, Exception):
            raise said
        return said

    monkeypatch.setattr(node._provider, "make_batch_request", answer)
    with pytest.raises(NodeAway):
        node.ask(QUESTIONS[:1])
    with pytest.raises(NodeAway):
        node.ask(QUESTIONS[:7])


def test_a_refusal_stands_in_its_place(node: Ethereum, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [
        {"code": 3, "message": "execution reverted: No"},
        {"code": -32000, "message": "missing trie node"},
    ]
    said = [{"error": errors[0]}, {"result": "0x1"}, {"error": errors[1]}, {"result": None}]
    monkeypatch.setattr(node._provider, "make_batch_request", lambda asked: said)
    assert node.ask(QUESTIONS[:4]) == [
        Fault("execution reverted: No", is_revert=True),
        "0x1",
        Fault("missing trie node", is_revert=False),
        None,
    ]
