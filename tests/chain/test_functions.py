"""What tasks may ask, how that becomes a request, and how wrong input is told."""

import time
import tracemalloc
from typing import Any

import pytest

from chain import functions
from chain.functions import BadDefinition, BadInput, UnknownFunction
from inference.models import Kind

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
SENTIMENT = {"analyze_sentiment": {"kind": "chat", "prompt": "Say positive or negative: {text}"}}


def asked(
    name: str, data: Any, *, kinds: tuple[str, ...] = ("chat",), defined: Any = None
) -> functions.Request:
    function = functions.find(name, defined or {})
    functions.check(function, data)
    return functions.request(function, data, model="llama", kinds=kinds)


def wrong(name: str, data: Any, *, defined: Any = None) -> str:
    with pytest.raises(BadInput) as caught:
        functions.check(functions.find(name, defined or {}), data)
    return caught.value.message


@pytest.mark.parametrize("name", ["chat", "chat_completion"])
def test_chat_is_asked_as_openai_has_it(name: str) -> None:
    found = asked(name, CHAT | {"temperature": 0.5, "model": "whatever", "stream": False})
    assert found.kind is Kind.CHAT
    assert found.body == CHAT | {"temperature": 0.5, "model": "llama", "max_tokens": functions.USUAL_TOKENS}


def test_what_the_task_says_of_the_length_counts() -> None:
    assert asked("chat", CHAT | {"max_tokens": 7}).body["max_tokens"] == 7
    body = asked("chat", CHAT | {"max_completion_tokens": 7}).body
    assert "max_tokens" not in body


def test_a_completion_and_embeddings() -> None:
    assert asked("completion", {"prompt": "Once"}).body["prompt"] == "Once"
    for name in ("embedding", "embeddings"):
        found = asked(name, {"input": ["a", "b"]})
        assert (found.kind, found.body) == (Kind.EMBEDDING, {"input": ["a", "b"], "model": "llama"})


@pytest.mark.parametrize("name", ["inference", "generate"])
def test_the_documents_inference_is_a_chat_or_a_completion_whichever_the_model_does(name: str) -> None:
    data = {
        "inputs": "What is AI?",
        "parameters": {"max_new_tokens": 5, "do_sample": False, "stop_sequences": ["."]},
    }
    said = {"model": "llama", "max_tokens": 5, "temperature": 0, "stop": ["."]}
    chat = asked(name, data, kinds=("completion", "chat"))
    assert (chat.kind, chat.body) == (
        Kind.CHAT,
        said | {"messages": [{"role": "user", "content": "What is AI?"}]},
    )
    completion = asked(name, data, kinds=("completion",))
    assert (completion.kind, completion.body) == (Kind.COMPLETION, said | {"prompt": "What is AI?"})
    embedding = asked(name, data, kinds=("embedding",))
    assert (embedding.kind, embedding.body) == (Kind.EMBEDDING, {"model": "llama", "input": "What is AI?"})


def test_an_operators_function_fills_its_prompt() -> None:
    found = asked("analyze_sentiment", {"text": "I love this product!"}, defined=SENTIMENT)
    assert found.body["messages"] == [
        {"role": "user", "content": "Say positive or negative: I love this product!"}
    ]


def test_what_a_task_says_is_not_read_as_a_template() -> None:
    defined = {"f": {"kind": "chat", "prompt": "{a} and {b}", "system": "About {a}."}}
    found = asked("f", {"a": "{b} {a.__class__} {0}", "b": "x"}, defined=defined)
    assert found.body["messages"] == [
        {"role": "system", "content": "About {b} {a.__class__} {0}."},
        {"role": "user", "content": "{b} {a.__class__} {0} and x"},
    ]


def test_an_operators_function_may_have_a_schema_and_parameters() -> None:
    defined = {
        "f": {
            "kind": "completion", "prompt": "{n}", "parameters": {"max_tokens": 3},
            "schema": {"required": ["n"], "properties": {"n": {"type": "integer"}}},
        }
    }  # fmt: skip
    assert asked("f", {"n": 5}, defined=defined).body == {"model": "llama", "max_tokens": 3, "prompt": "5"}
    assert wrong("f", {"n": "5"}, defined=defined) == "data.n: '5' is not of type 'integer'"


def test_an_operators_function_comes_before_a_usual_one() -> None:
    found = asked("chat", {"q": "x"}, defined={"chat": {"prompt": "{q}?"}})
    assert found.body["messages"] == [{"role": "user", "content": "x?"}]


@pytest.mark.parametrize(
    ("name", "data", "field"),
    [
        ("chat", {}, "data: 'messages' is a required property"),
        ("chat", {"messages": []}, "data.messages: "),
        ("chat", {"messages": [{"content": "x"}]}, "data.messages[0]: 'role'"),
        ("chat", CHAT | {"max_tokens": 0}, "data.max_tokens: 0"),
        ("chat", CHAT | {"max_tokens": True}, "data.max_tokens: True"),
        ("chat", CHAT | {"temperature": "hot"}, "data.temperature: 'hot'"),
        ("chat", CHAT | {"stream": True}, "data.stream: "),
        ("chat", CHAT | {"n": 10**9}, "data.n: "),
        ("completion", {"prompt": 5}, "data.prompt: 5"),
        ("embedding", {"input": [1]}, "data.input"),
        ("inference", {"inputs": ["x"]}, "data.inputs: "),
        (
            "inference",
            {"inputs": "x", "parameters": {"max_new_tokens": "many"}},
            "data.parameters.max_new_tokens: ",
        ),
        ("fine_tune", {"training_data": [{}]}, "data.training_data"),
        ("fine_tune", {"training_data": "x", "suffix": "a b"}, "data.suffix: "),
        ("fine_tune", {"training_data": "x", "surprise": 1}, "data: Additional properties"),
        ("chat", None, "data: None"),
        ("chat", [], "data: []"),
    ],
)
def test_wrong_input_is_told_with_its_field(name: str, data: Any, field: str) -> None:
    assert wrong(name, data).startswith(field)


def test_a_huge_wrong_input_is_not_repeated_whole() -> None:
    assert len(wrong("chat", CHAT | {"temperature": "x" * 100_000})) < 700


@pytest.mark.parametrize("name", ["", "nothing", None, 5, ["chat"], {"a": 1}, "x" * 10_000])
def test_an_unknown_function_is_told_with_those_that_there_are(name: Any) -> None:
    with pytest.raises(UnknownFunction) as caught:
        functions.find(name, SENTIMENT)
    assert "analyze_sentiment, chat, " in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "defined",
    [
        {"f": {}},
        {"f": {"prompt": ""}},
        {"f": {"prompt": "x", "kind": "training"}},
        {"f": {"prompt": "x", "schema": {"type": "nonsense"}}},
        {"f": {"prompt": "x", "schema": []}},
        {"f": {"prompt": "x", "parameters": []}},
        {"f": {"prompt": "x", "system": 5}},
        {"f": {"prompt": "x", "surprise": 5}},
        {"f": "chat"},
        {"no name": {"prompt": "x"}},
    ],
)
def test_a_wrong_definition_is_refused(defined: Any) -> None:
    with pytest.raises(BadDefinition):
        functions.of(defined)


def test_answers_are_what_their_function_is_for() -> None:
    reply = {
        "id": "x",
        "model": "m",
        "choices": [{"message": {"content": "positive"}}],
        "usage": {"total_tokens": 3},
    }
    find = functions.find
    assert functions.result(find("chat", {}), Kind.CHAT, reply) == reply
    about = {"model": "m", "usage": {"total_tokens": 3}}
    assert functions.result(find("inference", {}), Kind.CHAT, reply) == {
        "generated_text": "positive",
        **about,
    }
    assert functions.result(find("analyze_sentiment", SENTIMENT), Kind.CHAT, reply) == {
        "result": "positive",
        **about,
    }
    vectors = {"data": [{"embedding": [1.0]}]}
    assert functions.result(find("inference", {}), Kind.EMBEDDING, vectors) == vectors


def test_documents_list_what_a_model_can_do() -> None:
    chat = functions.described(SENTIMENT, {"chat"})
    assert {"chat", "chat_completion", "inference", "generate", "analyze_sentiment"} == set(chat)
    assert {"embedding", "embeddings"} == set(functions.described({}, {"embedding"}))
    assert "fine_tune" in functions.described({}, {"chat", "training"})


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("fine_tune", {"training_data": [1] * 300_000}),
        ("embedding", {"input": [1] * 300_000}),
        ("chat", {"messages": [1] * 300_000}),
        ("chat", {**CHAT, "stop": [1] * 300_000}),
        ("inference", {"inputs": "x", "parameters": {"stop_sequences": [1] * 300_000}}),
    ],
)
def test_a_megabyte_of_errors_takes_neither_memory_nor_time(name: str, data: Any) -> None:
    """All of them kept would be a gigabyte, for every task that a stranger publishes."""
    tracemalloc.start()
    begun = time.monotonic()
    try:
        assert wrong(name, data).startswith("data.")
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begun < 3
