"""Rows of every format: recognised, brought into one form, and what is wrong with them said field by field."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune import formats
from finetune.formats import WrongRow
from finetune.models import Format

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
PAIR = {"anchor": "a", "positive": "b"}

GOOD: list[tuple[str, dict[str, Any] | str, dict[str, Any]]] = [
    ("chat", {"messages": [USER, ANSWER]}, {"messages": [USER, ANSWER]}),
    (
        "chat",
        {"tools": [],
         "messages": [{"role": "developer", "content": "Be kind."}, {**USER, "name": "x"}, {**ANSWER, "weight": 0},
                      ANSWER]},
        {"messages": [{"role": "system", "content": "Be kind."}, USER, {**ANSWER, "weight": 0}, ANSWER]},
    ),
    ("chat",
     {"messages": [{**USER, "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, ANSWER]},
     {"messages": [USER, ANSWER]}),
    ("chat", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
     {"messages": [USER, ANSWER]}),
    ("chat", {"conversations": [USER, ANSWER]}, {"messages": [USER, ANSWER]}),
    ("completion", {"prompt": "", "completion": "b", "id": 7}, {"prompt": "", "completion": "b"}),
    ("completion", {"prompt": "a", "response": "b"}, {"prompt": "a", "completion": "b"}),
    ("instruction", {"instruction": "a", "input": "", "output": "b"}, {"instruction": "a", "output": "b"}),
    ("instruction", {"instruction": "a", "input": "c", "response": "b"},
     {"instruction": "a", "input": "c", "output": "b"}),
    ("instruction", {"instruction": "a", "context": "c", "response": "b", "category": "d"},
     {"instruction": "a", "input": "c", "output": "b"}),
    ("text", {"text": "a"}, {"text": "a"}),
    ("text", "a", {"text": "a"}),
    ("pairs", PAIR, PAIR),
    ("pairs", {"sentence1": "a", "sentence2": "b", "score": "0.5"}, {**PAIR, "score": 0.5}),
    ("pairs", {"text_a": "a", "text_b": "b", "label": 1}, {**PAIR, "score": 1.0}),
    ("pairs", {"query": "a", "document": "b"}, PAIR),
    ("triplets", {**PAIR, "negative": "c"}, {**PAIR, "negative": "c"}),
    ("triplets", {"query": "a", "positive": "b", "negative": "c"}, {**PAIR, "negative": "c"}),
    ("clicks", {"query": "q", "results": ["u", "v"], "clicked": [1, 1]},
     {"query": "q", "results": [{"id": "0", "text": "u"}, {"id": "1", "text": "v"}], "clicked": ["1"]}),
    (
        "clicks",
        {"session_id": "s", "search_query": "q",
         "search_results": [{"object_id": "x", "rank": 1.0, "meta": {"title": "u"}}, {"object_id": "y", "meta": "v"}],
         "events": [{"event_id": "1", "object_id": "y"}, {"object_id": "x", "event_type": "view"}]},
        {"query": "q", "results": [{"id": "x", "text": "u"}, {"id": "y", "text": "v"}], "clicked": ["y"]},
    ),
    ("clicks", {"query": "q", "results": [{"id": 1, "text": "u"}], "is_irrelevant": True},
     {"query": "q", "results": [{"id": "1", "text": "u"}], "clicked": []}),
]  # fmt: skip


@pytest.mark.parametrize(("form", "row", "expected"), GOOD)
def test_it_is_recognised_and_brought_into_its_form(form, row, expected):
    assert formats.recognise(row) == form
    assert formats.canonical(Format(form), row) == expected
    assert formats.recognise(expected) == form
    assert formats.canonical(Format(form), expected) == expected


BAD: list[tuple[str, Any, str, str]] = [
    ("chat", {"messages": [{"role": "robot", "content": "x"}, ANSWER]}, "messages[0].role", "'robot'"),
    ("chat", {"messages": [{"content": "x"}, ANSWER]}, "messages[0].role", "missing"),
    ("chat", {"messages": [USER]}, "messages", "no answer"),
    ("chat", {"messages": [USER, {**ANSWER, "weight": 0}]}, "messages", "no answer"),
    ("chat", {"messages": [USER, {**ANSWER, "weight": 0.5}]}, "messages[1].weight", "0 or 1"),
    ("chat", {"messages": [{**USER, "weight": 1}, ANSWER]}, "messages[0].weight", "0 or 1"),
    ("chat", {"messages": [{"role": "user", "content": 5}, ANSWER]}, "messages[0].content", "a number"),
    ("chat", {"messages": [{"role": "user", "content": " "}, ANSWER]}, "messages[0].content", "empty"),
    ("chat", {"messages": [USER, {"role": "assistant"}]}, "messages[1].content", "missing"),
    ("chat", {"messages": [USER, {"role": "assistant", "tool_calls": [{}]}]}, "messages[1]", "tools"),
    ("chat", {"messages": [{"role": "tool", "content": "x"}, ANSWER]}, "messages[0]", "tools"),
    (
        "chat",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]},
        "messages[0].content",
        "text",
    ),
    ("chat", {"messages": "hello"}, "messages", "not a list"),
    ("chat", {"messages": []}, "messages", "empty"),
    ("chat", {"messages": ["hello"]}, "messages[0]", "a text"),
    ("chat", {}, "messages", "missing"),
    ("chat", {"conversations": [{"from": "dog", "value": "x"}]}, "conversations[0].from", "dog"),
    ("chat", "text", "", "a string"),
    ("completion", {"prompt": "a"}, "completion", "missing"),
    ("completion", {"prompt": None, "completion": "b"}, "prompt", "null"),
    ("completion", {"prompt": "a", "completion": ""}, "completion", "empty"),
    ("instruction", {"instruction": "a", "output": ["b"]}, "output", "a list"),
    ("instruction", {"instruction": "a", "output": "b", "input": 1}, "input", "a number"),
    ("text", {"text": "\t\n"}, "text", "empty"),
    ("text", {"txt": "x"}, "text", "missing"),
    ("pairs", {"anchor": "a", "positive": True}, "positive", "true or false"),
    ("pairs", {**PAIR, "score": "high"}, "score", "no number"),
    ("pairs", {**PAIR, "label": True}, "label", "no number"),
    ("pairs", {**PAIR, "score": float("inf")}, "score", "no number"),
    ("pairs", {**PAIR, "score": 10**400}, "score", "no number"),
    ("triplets", {**PAIR, "negative": {}}, "negative", "an object"),
    ("clicks", {"query": "", "results": ["u"], "clicked": []}, "query", "empty"),
    ("clicks", {"query": "q", "results": [], "clicked": []}, "results", "not a list"),
    ("clicks", {"query": "q", "results": [{"id": 1}], "clicked": []}, "results[0]", "no text"),
    ("clicks", {"query": "q", "results": [{"id": 1, "text": "u"}] * 2, "clicked": []}, "results", "same id"),
    ("clicks", {"query": "q", "results": ["u"], "clicked": ["7"]}, "clicked", "'7'"),
    ("clicks", {"query": "q", "results": ["u"]}, "clicked", "not a list"),
    ("clicks", {"query": "q", "results": ["u"], "clicked": [None]}, "clicked[0]", "no id"),
]


@pytest.mark.parametrize(("form", "row", "field", "says"), BAD)
def test_what_is_wrong_is_said_with_its_field_and_what_to_do(form, row, field, says):
    with pytest.raises(WrongRow) as refused:
        formats.canonical(Format(form), row)

    fault = next(each for each in refused.value.faults if each.field == field)
    assert says in fault.message
    assert fault.fix


def test_everything_that_is_wrong_with_a_row_is_said_at_once():
    with pytest.raises(WrongRow) as refused:
        formats.canonical(
            Format.CHAT, {"messages": [{"role": "x", "content": 1}, {"role": "y", "content": ""}]}
        )

    assert [fault.field for fault in refused.value.faults] == [
        f"messages[{index}].{name}" for index in (0, 1) for name in ("role", "content")
    ]


@pytest.mark.parametrize(
    ("form", "row"),
    [("pairs", {"question": "a", "answer": "b"}), ("instruction", {"question": "a", "answer": "b"}),
     ("completion", {"question": "a", "answer": "b"}), ("pairs", {"prompt": "a", "completion": "b"})],
)  # fmt: skip
def test_what_may_be_meant_in_several_ways_is_read_as_one_is_told(form, row):
    assert formats.canonical(Format(form), row)


@pytest.mark.parametrize("row", [{}, {"a": 1}, {"question": "a", "answer": "b"}, {"Text": "x"}])
def test_what_nobody_knows_is_not_recognised(row):
    assert formats.recognise(row) is None


words = st.sampled_from(
    ["messages", "role", "content", "user", "assistant", "prompt", "completion", "text", "anchor", "positive", "score",
     "query", "results", "clicked", "id", "events", "object_id", "meta", "weight", "conversations", "from", "value"]
)  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5),
    max_leaves=25,
)


@settings(max_examples=400, deadline=None)
@given(row=st.dictionaries(words, anything, max_size=6), form=st.sampled_from(list(Format)))
def test_no_row_breaks_it(row, form):
    for each in {form, formats.recognise(row) or form}:
        faults: tuple[formats.Fault, ...] = ()
        try:
            found = formats.canonical(each, row)
        except WrongRow as error:
            faults = error.faults
        assert all(fault.message and fault.fix for fault in faults)
        if not faults:
            assert formats.canonical(each, found) == found
            assert all(isinstance(text, str) for text in formats.texts(found))
            orjson.dumps(found)
