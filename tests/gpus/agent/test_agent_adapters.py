"""The marketplace's models in the local engine: adapters that share their base, full models, embeddings."""

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from gpus import model_files
from gpus.agent import options
from gpus.agent.engines import CannotHost, Guest, toy
from gpus.agent.engines.local import Local
from gpus.agent.intake import Intake
from tests.gpus.agent.test_agent_local import ask, events, models_dir  # noqa: F401 - a fixture

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
COMPLETIONS = "/v1/completions"


def digest(folder: Path) -> str:
    files = {
        path.relative_to(folder).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_size,
        )
        for path in folder.rglob("*")
        if path.is_file()
    }
    return hashlib.sha256(model_files.manifest(files)).hexdigest()


@pytest.fixture(scope="module")
def base(models_dir: Path) -> Path:  # noqa: F811 - that fixture
    return toy.ensure(models_dir, say=print)


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three adapters over the toy, each of which says something else."""
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base),
            LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"),
        )
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        folder = tmp_path_factory.mktemp("adapter")
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        found.append(folder)
    return found


@pytest.fixture
async def engine(models_dir: Path) -> AsyncIterator[Local]:  # noqa: F811 - that fixture
    given = ["--device", "cpu", "--model", toy.NAME]
    engine = Local(options.parse(given, {"MARKETPLACE_HOME": str(models_dir.parent)}))
    await engine.start(lambda: None)
    yield engine
    await engine.close()


def guest(folder: Path, base: Path, name: str) -> Guest:
    return Guest(name, digest(folder), "causal", folder, True, toy.NAME, digest(base), None)


def say(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "prompt": "The node ", "max_tokens": 24, "temperature": 0, **more}


async def text(intake: Intake, model: str) -> str:
    status, reply, _ = await ask(intake, say(model), COMPLETIONS)
    assert status == 200, reply
    return str(reply["choices"][0]["text"])


async def host(engine: Local, guests: list[Guest]) -> None:
    for each in guests:
        assert await engine.has_base(each.base, each.base_digest)
        await engine.host(each)
        engine.offer_guest(each)


async def test_adapters_share_the_base_that_the_node_serves(
    engine: Local, base: Path, adapters: list[Path]
) -> None:
    intake = Intake([engine])
    plain = await text(intake, toy.NAME)
    await host(engine, [guest(folder, base, f"tuned-{at}") for at, folder in enumerate(adapters)])
    said = [await text(intake, f"tuned-{at}") for at in range(3)]
    assert len({plain, *said}) == 4
    assert await text(intake, toy.NAME) == plain
    offers = {offer.name: offer for offer in engine.offers}
    assert offers["tuned-1"].revision == digest(adapters[1])[:12]
    assert offers["tuned-1"].kinds == ("chat", "completion")


async def test_interleaved_answers_of_different_adapters_do_not_mix(
    engine: Local, base: Path, adapters: list[Path]
) -> None:
    intake = Intake([engine])
    await host(engine, [guest(folder, base, f"tuned-{at}") for at, folder in enumerate(adapters)])
    names = [toy.NAME, "tuned-0", "tuned-1", "tuned-2"]
    alone = {name: await text(intake, name) for name in names}

    async def streamed(name: str) -> str:
        found = await events(intake, say(name), COMPLETIONS)
        return "".join(each["choices"][0]["text"] for each in found)

    together = await asyncio.gather(*(streamed(name) for name in names * 3))
    assert together == [alone[name] for name in names * 3]


async def test_an_answer_that_has_begun_goes_on_when_its_adapter_is_dismissed(
    engine: Local, base: Path, adapters: list[Path]
) -> None:
    intake = Intake([engine])
    one, two = (guest(adapters[at], base, f"tuned-{at}") for at in range(2))
    await host(engine, [one, two])
    plain, whole = await text(intake, toy.NAME), await text(intake, "tuned-0")
    body = orjson.dumps(say("tuned-0", stream=True))
    async with intake.visit(COMPLETIONS, body) as answer:
        chunks = aiter(answer)
        got = [await anext(chunks)]
        await engine.dismiss(one)
        got += [chunk async for chunk in chunks]
    lines = [line.removeprefix("data: ") for line in b"".join(got).decode().split("\n\n") if line][:-1]
    assert "".join(json.loads(line)["choices"][0]["text"] for line in lines) == whole
    assert [offer.name for offer in engine.offers] == [toy.NAME, "tuned-1"]
    await engine.dismiss(two)
    assert await text(intake, toy.NAME) == plain


async def test_a_new_revision_takes_the_place_of_the_old_one(
    engine: Local, base: Path, adapters: list[Path]
) -> None:
    intake = Intake([engine])
    old, new = (guest(adapters[at], base, "tuned") for at in range(2))
    await host(engine, [old])
    before = await text(intake, "tuned")
    await engine.host(new)
    assert [offer.name for offer in engine.untried] == [new.key]
    assert await text(intake, "tuned") == before != await text(intake, new.key)
    engine.offer_guest(new)
    assert await text(intake, "tuned") != before
    await engine.dismiss(old)
    assert [offer.revision for offer in engine.offers if offer.name == "tuned"] == [new.label]


async def test_a_base_of_its_own_is_loaded_where_the_node_has_another(
    engine: Local, base: Path, adapters: list[Path], tmp_path: Path
) -> None:
    other = tmp_path / "base"
    shutil.copytree(base, other)
    (other / "README.md").write_text("Another revision.")
    assert not await engine.has_base(toy.NAME, digest(other))
    lone = Guest("tuned", digest(adapters[0]), "causal", adapters[0], True, toy.NAME, digest(other), other)
    await engine.host(lone)
    engine.offer_guest(lone)
    assert await engine.has_base("anything", digest(other))
    await text(Intake([engine]), "tuned")
    assert [offer.name for offer in engine.offers] == [toy.NAME, "tuned"]
    await engine.dismiss(lone)
    await asyncio.sleep(0.1)  # what has answered last lets go of it in its own thread
    assert not await engine.has_base("anything", digest(other))


async def test_an_adapter_that_does_not_fit_is_refused_and_changes_nothing(
    engine: Local, base: Path, adapters: list[Path], tmp_path: Path
) -> None:
    intake = Intake([engine])
    await host(engine, [guest(adapters[1], base, "tuned-1")])
    plain, tuned = await text(intake, toy.NAME), await text(intake, "tuned-1")
    broken = tmp_path / "broken"
    shutil.copytree(adapters[0], broken)
    config = json.loads((broken / "adapter_config.json").read_text())
    (broken / "adapter_config.json").write_text(json.dumps(config | {"r": 8}))
    with pytest.raises(CannotHost, match="cannot be loaded"):
        await engine.host(guest(broken, base, "broken"))
    assert [offer.name for offer in engine.untried] == []
    assert (await text(intake, toy.NAME), await text(intake, "tuned-1")) == (plain, tuned)


async def test_full_models_are_hosted_too(engine: Local, base: Path) -> None:
    full = Guest("alice/toy", digest(base), "causal", base)
    await engine.host(full)
    engine.offer_guest(full)
    assert await text(Intake([engine]), "alice/toy")
    with pytest.raises(CannotHost, match="of its own"):
        await engine.host(Guest(toy.NAME, digest(base), "causal", base))


async def test_what_is_no_model_is_refused(engine: Local, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(CannotHost, match="cannot be loaded"):
        await engine.host(Guest("x", "0" * 64, "causal", tmp_path))
    with pytest.raises(CannotHost, match="cannot be loaded"):
        await engine.host(Guest("x", "0" * 64, "embedding", tmp_path))
