"""Reading usage out of answers as they pass."""

import pytest

from gpus.agent.engines import Usage
from gpus.agent.engines.metering import Meter, prompt_text
from tests.gpus.agent.fakes import USAGE, event


async def used(*chunks: bytes, content_type: str = "text/event-stream") -> Usage:
    meter = Meter(content_type)
    for chunk in chunks:
        meter.feed(chunk)
    return await meter.usage({"model": "m", "prompt": "1234"}, None)


async def test_the_report_is_found_wherever_the_chunks_are_cut() -> None:
    stream = event("a", usage=None) + event(choices=[], usage=USAGE) + b"data: [DONE]\n\n"
    for cut in range(len(stream)):
        assert (await used(stream[:cut], stream[cut:])).tokens == USAGE


async def test_talk_about_usage_is_no_report() -> None:
    usage = await used(event('{"usage": {"prompt_tokens": 1}}'))
    assert usage.source == "estimate"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"choices": [{"message": null}]}', b'{"usage": {"x": 1}}', b"\xff"]
)
async def test_odd_bodies_are_estimated(body: bytes) -> None:
    assert (await used(body, content_type="application/json")).source == "estimate"


async def test_a_long_stream_is_counted_in_full_without_being_kept() -> None:
    meter = Meter("text/event-stream")
    for _ in range(20_000):
        meter.feed(event("abcd"))
    assert meter._size < 2**20
    usage = await meter.usage({"prompt": ""}, None)
    assert usage.tokens is not None
    assert usage.tokens["completion_tokens"] == 20_000


async def test_reasoning_and_tool_calls_count() -> None:
    call = {"index": 0, "delta": {"tool_calls": [{"function": {"name": "find", "arguments": '{"a":1}'}}]}}
    usage = await used(event(choices=[call]) + event(choices=[{"delta": {"reasoning_content": "abcde"}}]))
    assert usage.tokens is not None
    assert usage.tokens["completion_tokens"] == 4


def test_all_text_of_a_prompt_is_seen() -> None:
    parts = [{"type": "text", "text": "b"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": parts}, {"role": "assistant"}]
    assert prompt_text({"messages": messages}) == "a\nb"
    assert prompt_text({"input": ["a", "b"]}) == "a\nb"
