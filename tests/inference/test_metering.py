"""Reading a streamed answer as it passes."""

import pytest

from inference.metering import StreamMeter, estimate, usage_of

CHUNK = b'data: {"choices":[{"delta":{"content":"Hello"}}]}\n\n'
LAST = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


def meter(**options: bool) -> StreamMeter:
    return StreamMeter(**{"pass_usage": False, "keep_text": False, **options})


def feed(found: StreamMeter, *chunks: bytes) -> bytes:
    return b"".join(map(found.feed, chunks)) + found.rest()


def test_events_pass_as_they_came() -> None:
    found = meter()
    assert feed(found, CHUNK + CHUNK) == CHUNK + CHUNK
    assert found.events == 2


@pytest.mark.parametrize("size", [1, 7, 50])
def test_it_does_not_matter_where_the_bytes_are_cut(size: int) -> None:
    data = CHUNK + CHUNK + LAST + DONE
    found = meter(keep_text=True)
    assert feed(found, *(data[at : at + size] for at in range(0, len(data), size))) == CHUNK + CHUNK
    assert found.usage == {"prompt_tokens": 3, "completion_tokens": 2}
    assert found.done
    assert "".join(found.text) == "HelloHello"


def test_usage_goes_on_only_to_who_asked_for_it() -> None:
    assert feed(meter(), CHUNK, LAST) == CHUNK
    assert feed(meter(pass_usage=True), CHUNK, LAST) == CHUNK + LAST


def test_done_is_held_back() -> None:
    found = meter()
    assert feed(found, CHUNK + DONE) == CHUNK
    assert found.done


def test_carriage_returns_and_a_missing_last_line_are_understood() -> None:
    found = meter()
    assert feed(found, CHUNK.replace(b"\n", b"\r\n"), CHUNK.strip()) == CHUNK + CHUNK


def test_an_agents_count_stands_where_the_engine_reports_nothing() -> None:
    found = meter()
    comment = b': usage {"usage":{"prompt_tokens":5,"completion_tokens":6},"usage_source":"tokenizer"}\n\n'
    assert feed(found, CHUNK, DONE, comment) == CHUNK
    assert found.usage == {"prompt_tokens": 5, "completion_tokens": 6}
    assert found.usage_source == "tokenizer"


def test_an_error_event_is_taken_out() -> None:
    found = meter()
    assert feed(found, CHUNK, b'data: {"error":{"message":"out of memory"}}\n\n') == CHUNK
    assert found.error == "out of memory"


def test_a_text_about_errors_is_no_error() -> None:
    event = b'data: {"choices":[{"delta":{"content":"\\"error\\""}}],"error":null}\n\n'
    found = meter()
    assert feed(found, event) == event
    assert found.error is None


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": "3"}, {"prompt_tokens": -1}, {"prompt_tokens": 2**40}, [1], "x"]
)
def test_an_unsound_report_does_not_count(usage: object) -> None:
    assert usage_of({"usage": usage}) is None


def test_an_estimate_counts_events_or_bytes() -> None:
    assert estimate(request_bytes=9, events=5) == {"prompt_tokens": 3, "completion_tokens": 5}
    assert estimate(request_bytes=8, answer_bytes=10) == {"prompt_tokens": 2, "completion_tokens": 3}
