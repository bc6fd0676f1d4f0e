"""Real models in the agent's own process: the toy, trained here and now, and all-MiniLM-L6-v2."""

import asyncio
import base64
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import orjson
import pytest

from gpus.agent import options
from gpus.agent.engines import Usage, toy
from gpus.agent.engines.causal import TextPieces
from gpus.agent.engines.local import Local
from gpus.agent.intake import Intake
from gpus.agent.options import WrongOption

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
CHAT = "/v1/chat/completions"
HELLO = {"model": toy.NAME, "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the toy is; trained once per run."""
    return tmp_path_factory.mktemp("home") / "models"


@pytest.fixture(scope="session")
def engine(models_dir: Path) -> Iterator[Local]:
    engine = Local(options.parse(["--device", "cpu"], {"MARKETPLACE_HOME": str(models_dir.parent)}))
    asyncio.run(engine.start(lambda: None))
    yield engine
    asyncio.run(engine.close())


@pytest.fixture
def intake(engine: Local) -> Intake:
    return Intake([engine])


async def ask(intake: Intake, request: dict[str, Any], path: str = CHAT) -> tuple[int, Any, Usage]:
    visit = intake.visit(path, orjson.dumps(request))
    async with visit as answer:
        body = b"".join([chunk async for chunk in answer])
    return answer.status, orjson.loads(body), await visit.usage()


async def events(intake: Intake, request: dict[str, Any], path: str = CHAT) -> list[dict[str, Any]]:
    async with intake.visit(path, orjson.dumps(request | {"stream": True})) as answer:
        assert answer.content_type == "text/event-stream"
        body = b"".join([chunk async for chunk in answer])
    lines = body.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [orjson.loads(line.removeprefix("data: ")) for line in lines[:-2]]


async def test_it_offers_the_two_embedded_models_plainly(intake: Intake) -> None:
    toy_offer, minilm = intake.offers()
    assert (toy_offer.name, toy_offer.kinds, toy_offer.context_length) == (
        toy.NAME,
        ("chat", "completion"),
        512,
    )
    assert toy_offer.description.startswith("A toy")
    assert len(toy_offer.description) <= 500
    assert (minilm.name, minilm.kinds, minilm.context_length) == (MINILM, ("embedding",), 256)


async def test_the_toy_introduces_itself_quickly_and_stops_by_itself(intake: Intake) -> None:
    began = time.monotonic()
    status, reply, usage = await ask(intake, HELLO)
    assert time.monotonic() - began < 5
    assert status == 200
    choice = reply["choices"][0]
    assert "toy" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    assert usage == Usage(reply["usage"], "engine")
    assert usage.tokens is not None
    assert usage.tokens["prompt_tokens"] == len("Hello") + 3


async def test_a_stream_says_the_same_as_a_plain_answer(intake: Intake) -> None:
    request = HELLO | {"temperature": 0}
    _, plain, _ = await ask(intake, request)
    found = await events(intake, request | {"stream_options": {"include_usage": True}})
    assert found[0]["choices"][0]["delta"]["role"] == "assistant"
    text = "".join(each["choices"][0]["delta"].get("content", "") for each in found[:-1])
    assert text == plain["choices"][0]["message"]["content"]
    assert found[-2]["choices"][0]["finish_reason"] == "stop"
    assert (found[-1]["choices"], found[-1]["usage"]) == ([], plain["usage"])
    assert len({each["id"] for each in found}) == 1


async def test_it_keeps_to_the_most_tokens(intake: Intake) -> None:
    _, reply, _ = await ask(intake, HELLO | {"max_tokens": 5})
    assert (reply["usage"]["completion_tokens"], reply["choices"][0]["finish_reason"]) == (5, "length")
    _, reply, _ = await ask(intake, HELLO | {"max_completion_tokens": 3})
    assert reply["usage"]["completion_tokens"] == 3


async def test_the_same_seed_gives_the_same_answer(intake: Intake) -> None:
    def request(seed: int) -> dict[str, Any]:
        return {"model": toy.NAME, "prompt": "The ", "max_tokens": 40, "temperature": 2, "seed": seed}

    replies = await asyncio.gather(*(ask(intake, request(seed), "/v1/completions") for seed in (1, 1, 2)))
    first, same, other = (reply["choices"][0]["text"] for _, reply, _ in replies)
    assert first == same != other


async def test_a_completion_goes_on_from_the_prompt(intake: Intake) -> None:
    _, reply, _ = await ask(intake, {"model": toy.NAME, "prompt": "A node "}, "/v1/completions")
    assert reply["object"] == "text_completion"
    assert 0 < reply["usage"]["completion_tokens"] <= 16
    found = await events(intake, {"model": toy.NAME, "prompt": ["A node "]}, "/v1/completions")
    assert all("text" in each["choices"][0] for each in found)


async def test_it_stops_before_a_stop_text(intake: Intake) -> None:
    _, whole, _ = await ask(intake, HELLO | {"temperature": 0})
    text = whole["choices"][0]["message"]["content"]
    found = await events(intake, HELLO | {"temperature": 0, "stop": ["never", text[10:14]]})
    said = "".join(each["choices"][0]["delta"].get("content", "") for each in found)
    assert said == text[: text.index(text[10:14])]
    assert found[-1]["choices"][0]["finish_reason"] == "stop"


async def test_requests_take_turns(intake: Intake) -> None:
    """Four streams end within moments of each other, and not one after the other."""

    async def stream() -> tuple[float, float]:
        began = 0.0
        request = {
            "model": toy.NAME,
            "prompt": "x",
            "max_tokens": 60,
            "stream": True,
            "temperature": 2,
            "seed": 5,
        }
        async with intake.visit("/v1/completions", orjson.dumps(request)) as answer:
            async for _ in answer:
                began = began or time.monotonic()
        return began, time.monotonic()

    spans = await asyncio.gather(*(stream() for _ in range(4)))
    assert max(began for began, _ in spans) < min(ended for _, ended in spans)


async def test_a_stopped_answer_costs_no_more(intake: Intake) -> None:
    request = {
        "model": toy.NAME,
        "prompt": "x",
        "max_tokens": 400,
        "stream": True,
        "temperature": 2,
        "seed": 5,
    }
    visit = intake.visit("/v1/completions", orjson.dumps(request))
    async with visit as answer:
        seen = 0
        async for _ in answer:
            seen += 1
            if seen == 3:
                break
    first = await visit.usage()
    await asyncio.sleep(0.1)
    assert await visit.usage() == first
    assert first.tokens is not None
    assert first.tokens["completion_tokens"] < 20


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": 5}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
async def test_what_it_cannot_do_is_refused_clearly(
    intake: Intake, change: dict[str, Any], param: str
) -> None:
    status, reply, _ = await ask(intake, HELLO | change)
    assert status == 400
    assert reply["error"]["param"] == param
    assert reply["error"]["type"] == "invalid_request_error"


async def test_harmless_parameters_are_taken(intake: Intake) -> None:
    harmless = {"n": 1, "logprobs": False, "tools": [], "response_format": {"type": "text"}, "user": "x"}
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    status, _, _ = await ask(intake, HELLO | harmless | {"messages": parts, "max_tokens": 1})
    assert status == 200


async def test_a_prompt_that_does_not_fit_is_refused(intake: Intake) -> None:
    for change in ({"max_tokens": 510}, {"messages": [{"role": "user", "content": "x" * 600}]}):
        status, reply, _ = await ask(intake, HELLO | change)
        assert (status, reply["error"]["code"]) == (400, "context_length_exceeded")


async def test_each_model_serves_what_it_is_for(intake: Intake) -> None:
    status, reply, _ = await ask(intake, HELLO | {"model": MINILM})
    assert status == 400
    assert "embedding" in reply["error"]["message"]


# --- Embeddings ------------------------------------------------------------------------------------------
async def embed(intake: Intake, **request: Any) -> tuple[int, Any, Usage]:
    return await ask(intake, {"model": MINILM, **request}, "/v1/embeddings")


async def test_similar_sentences_have_similar_vectors(intake: Intake) -> None:
    inputs = ["A cat sits on the mat.", "A kitten rests on a rug.", "The bond market fell sharply."]
    status, reply, usage = await embed(intake, input=inputs)
    assert status == 200
    cat, kitten, bonds = (numpy.array(each["embedding"]) for each in reply["data"])
    assert cat.shape == (384,)
    assert abs(float(cat @ cat) - 1) < 1e-3
    assert cat @ kitten > 0.5 > 0.2 > cat @ bonds
    assert [each["index"] for each in reply["data"]] == [0, 1, 2]
    assert usage == Usage(reply["usage"], "engine")
    assert reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"] > 15


async def test_base64_holds_the_same_numbers(intake: Intake) -> None:
    _, plain, _ = await embed(intake, input="hello")
    _, packed, _ = await embed(intake, input=["hello"], encoding_format="base64")
    numbers = numpy.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), dtype="<f4")
    assert numpy.allclose(numbers, plain["data"][0]["embedding"], atol=1e-6)


async def test_a_large_batch_comes_back_in_order(intake: Intake) -> None:
    texts = [f"Sentence number {number}." for number in range(70)]
    _, batch, _ = await embed(intake, input=texts)
    _, single, _ = await embed(intake, input=texts[50])
    assert numpy.allclose(batch["data"][50]["embedding"], single["data"][0]["embedding"], atol=1e-4)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"input": "x", "dimensions": 64}, "dimensions"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": [1, 2, 3]}, "input"),
        ({"input": {"text": "x"}}, "input"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": ["fine", "long " * 400]}, "input"),
    ],
)
async def test_inputs_that_cannot_be_embedded_are_refused(
    intake: Intake, request_: dict[str, Any], param: str
) -> None:
    status, reply, _ = await embed(intake, **request_)
    assert (status, reply["error"]["param"]) == (400, param)


# --- The models' files -----------------------------------------------------------------------------------
def test_the_toy_is_trained_only_once(intake: Intake, models_dir: Path) -> None:
    said: list[str] = []
    began = time.monotonic()
    folder = toy.ensure(models_dir, say=said.append)
    assert (said, time.monotonic() - began < 1) == ([], True)
    assert sorted(os.listdir(models_dir)) == [folder.name, f"{folder.name}.lock"]


async def test_a_folder_can_be_served_under_a_name(intake: Intake, models_dir: Path, tmp_path: Path) -> None:
    folder = toy.ensure(models_dir, say=print)
    engine = Local(options.parse(["--model", f"mine={folder}", "--state-dir", str(tmp_path)], {}))
    await engine.start(lambda: None)
    assert [offer.name for offer in engine.offers] == ["mine"]
    await engine.close()


@pytest.mark.parametrize("arguments", [["--device", "toaster"], ["--model", "/nowhere/at all"]])
async def test_what_cannot_be_served_is_said_in_a_line(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(WrongOption) as raised:
        await Local(options.parse([*arguments, "--state-dir", str(tmp_path)], {})).start(lambda: None)
    assert "\n" not in str(raised.value)


def test_weights_that_are_not_the_original_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpus.agent.engines import folders

    monkeypatch.setattr(folders, "MINILM_SHA256", "0" * 64)
    with pytest.raises(WrongOption, match="does not hold the weights"):
        folders.find(MINILM, models_dir=Path())


class Letters:
    """A tokenizer of bytes, for text in pieces."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return bytes(ids).decode("utf-8", "replace")


@pytest.mark.parametrize("stops", [(), ("never",), ("ö€",), ("wör", "xyz"), ("hell", "hello w")])
def test_text_comes_in_whole_characters_and_stops_where_it_should(stops: tuple[str, ...]) -> None:
    text = "hello wörld €100 🦙!"
    pieces, said = TextPieces(Letters(), stops), []
    for byte in text.encode():
        said.append(pieces.add(byte))
        if pieces.stopped:
            break
    if not pieces.stopped:
        said.append(pieces.rest())
    at = min((text.index(stop) for stop in stops if stop in text), default=len(text))
    assert "".join(said) == text[:at]
    assert "\ufffd" not in "".join(said)
