"""LoRA adapters on a vLLM server, by its endpoints as they are documented."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gpus.agent.engines import CannotHost, Guest
from gpus.agent.engines.discovery import Wanted
from gpus.agent.engines.upstream import Upstream
from gpus.agent.intake import Intake
from tests.gpus.agent.fakes import until
from tests.gpus.agent.test_agent_local import ask

DIGEST = "0123456789ab" + "c" * 52


class VLLM:
    """A server as VLLM_ALLOW_RUNTIME_LORA_UPDATING makes it."""

    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        self.asked: list[str] = []
        self.error: tuple[int, Any] | None = None

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/load_lora_adapter", self._load)
        app.router.add_post("/v1/unload_lora_adapter", self._unload)
        app.router.add_post("/v1/completions", self._answer)
        return app

    async def _models(self, _request: web.Request) -> web.Response:
        cards = [
            {"id": "llama", "root": "meta/llama", "parent": None, "owned_by": "vllm", "max_model_len": 4096}
        ]
        cards += [
            {"id": name, "root": path, "parent": "llama", "owned_by": "vllm"}
            for name, path in self.adapters.items()
        ]
        return web.json_response({"object": "list", "data": cards})

    async def _load(self, request: web.Request) -> web.Response:
        said = await request.json()
        if self.error is not None:
            return web.json_response(self.error[1], status=self.error[0])
        name, path = said["lora_name"], said["lora_path"]
        if name in self.adapters:
            message = f"The lora adapter '{name}' has already been loaded."
            return web.json_response(
                {"error": {"message": message, "type": "InvalidUserInput", "param": None, "code": 400}},
                status=400,
            )
        assert (Path(path) / "adapter_config.json").exists()
        self.adapters[name] = path
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return web.json_response({"error": {"message": "cannot be found", "code": 404}}, status=404)
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append((await request.json())["model"])
        return web.json_response(
            {"choices": [{"text": "yes"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
        )


@pytest.fixture
async def vllm() -> VLLM:
    return VLLM()


@pytest.fixture
async def engine(vllm: VLLM, tmp_path: Path) -> AsyncIterator[Upstream]:
    server = TestServer(vllm.app())
    await server.start_server()
    found = Upstream(str(server.make_url("/")), wanted=Wanted({}), adapters=tmp_path / "shared")
    await found.start(lambda: None)
    yield found
    await found.close()
    await server.close()


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    return Guest("ft:llama:alice::1", DIGEST, "causal", folder, True, "llama", "d" * 64)


def say(model: str) -> dict[str, Any]:
    return {"model": model, "prompt": "Hello"}


async def test_an_adapter_is_loaded_asked_and_unloaded(
    engine: Upstream, vllm: VLLM, guest: Guest, tmp_path: Path
) -> None:
    intake = Intake([engine])
    assert engine.hosting is not None
    assert (engine.hosting["engine"], engine.hosting["full"], engine.hosting["bases"]) == (
        "vllm",
        False,
        ["llama"],
    )
    await engine.host(guest)
    assert vllm.adapters == {guest.key: str(tmp_path / "shared" / DIGEST)}
    assert (await ask(intake, say(guest.key), "/v1/completions"))[0] == 200
    assert [offer.name for offer in engine.offers] == ["llama"]
    engine.offer_guest(guest)
    offer = engine.offers[1]
    assert (offer.name, offer.revision, offer.context_length) == (guest.name, guest.label, 4096)
    assert (await ask(intake, say(guest.name), "/v1/completions"))[0] == 200
    assert (await ask(intake, say("llama"), "/v1/completions"))[0] == 200
    assert vllm.asked == [guest.key, guest.key, "llama"]
    await engine.dismiss(guest)
    assert (vllm.adapters, [offer.name for offer in engine.offers]) == ({}, ["llama"])
    assert not (tmp_path / "shared" / DIGEST).exists()


async def test_what_it_lists_of_ours_is_not_offered_as_the_providers_own(
    engine: Upstream, vllm: VLLM, guest: Guest, tmp_path: Path
) -> None:
    vllm.adapters = {"of an earlier life": str(tmp_path / "shared" / "x"), "the provider's": "/lora/own"}
    await engine._look()
    assert [offer.name for offer in engine.offers] == ["llama", "the provider's"]


async def test_one_that_is_there_from_an_earlier_life_is_loaded_anew(
    engine: Upstream, vllm: VLLM, guest: Guest, tmp_path: Path
) -> None:
    vllm.adapters[guest.key] = "/somewhere/old"
    await engine.host(guest)
    assert vllm.adapters == {guest.key: str(tmp_path / "shared" / DIGEST)}


@pytest.mark.parametrize(
    "error",
    [
        (400, {"object": "error", "message": "LoRA rank 64 is greater than max_lora_rank 16.", "code": 400}),
        (400, {"error": {"message": "LoRA rank 64 is greater than max_lora_rank 16."}}),
        (404, {"detail": "LoRA rank 64 is greater than max_lora_rank 16."}),
    ],
)
async def test_the_servers_refusal_is_told(engine: Upstream, vllm: VLLM, guest: Guest, error: Any) -> None:
    vllm.error = error
    with pytest.raises(CannotHost, match="rank 64 is greater"):
        await engine.host(guest)


async def test_full_models_and_other_bases_are_not_for_it(engine: Upstream, guest: Guest) -> None:
    with pytest.raises(CannotHost, match="does not serve"):
        await engine.host(Guest("x", DIGEST, "causal", guest.folder))
    with pytest.raises(CannotHost, match="does not serve mistral"):
        await engine.host(Guest("x", DIGEST, "causal", guest.folder, True, "mistral", "d" * 64))


async def test_a_server_that_was_started_anew_has_lost_them(
    engine: Upstream, vllm: VLLM, guest: Guest
) -> None:
    await engine.host(guest)
    engine.offer_guest(guest)
    assert engine.has_guest(guest)
    vllm.adapters.clear()
    await engine._look()
    assert not engine.has_guest(guest)
    assert [offer.name for offer in engine.offers] == ["llama"]


async def test_nothing_is_offered_while_the_server_is_away(engine: Upstream, guest: Guest) -> None:
    await engine.host(guest)
    engine.offer_guest(guest)
    engine._lost()
    assert engine.offers == []
    engine._look_again.set()
    await until(lambda: len(engine.offers) == 2)


async def test_a_server_without_a_folder_hosts_nothing(vllm: VLLM) -> None:
    server = TestServer(vllm.app())
    await server.start_server()
    engine = Upstream(str(server.make_url("/")), wanted=Wanted({}))
    await engine.start(lambda: None)
    assert engine.hosting is None
    await asyncio.gather(engine.close(), server.close())
