"""Models of the marketplace's on a node: fetched, checked, tried, offered, let go. The engine here loads nothing."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gpus import model_files
from gpus.agent import cache, hosting, options
from gpus.agent.engines import Answer, CannotHost, Engine, Guest, Offer, Whole
from gpus.agent.hosting import Hosting
from gpus.agent.intake import Intake
from tests import models
from tests.gpus.agent.fakes import until


class Engines(Engine):
    """Loads nothing, and answers with the name that it is asked by."""

    title = "fake"

    def __init__(self) -> None:
        self.own = [Offer("llama")]
        self.loaded: dict[str, Guest] = {}
        self.shown: dict[str, str] = {}
        self.refuses = ""
        self.answer: Any = None
        self.gate: asyncio.Event | None = None
        self.bases: set[str] = set()

    @property
    def offers(self) -> list[Offer]:
        return self.own + [Offer(name, revision=self.loaded[key].label) for name, key in self.shown.items()]

    @property
    def untried(self) -> list[Offer]:
        return [Offer(key) for key in self.loaded if key not in self.shown.values()]

    @property
    def hosting(self) -> dict[str, Any]:
        return {"engine": "transformers", "families": ["causal"], "adapters": True, "full": True, "bases": []}

    async def has_base(self, name: str, digest: str) -> bool:
        return digest in self.bases

    async def host(self, guest: Guest) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.refuses:
            raise CannotHost(self.refuses)
        assert (guest.folder / "config.json").exists() or guest.is_adapter
        self.loaded[guest.key] = guest

    def offer_guest(self, guest: Guest) -> None:
        self.shown[guest.name] = guest.key

    async def dismiss(self, guest: Guest) -> None:
        self.loaded.pop(guest.key, None)
        if self.shown.get(guest.name) == guest.key:
            del self.shown[guest.name]

    async def start(self, changed: Callable[[], None]) -> None: ...

    async def open(self, path: str, body: bytes, request: dict[str, Any]) -> Answer:
        said = {"choices": [{"text": request["model"]}]} if self.answer is None else self.answer
        return Whole(orjson.dumps(said))

    async def close(self) -> None: ...


class Files:
    """The marketplace's files, with what networks do to them."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.breaks_after: int | None = None
        self.status = 0
        self.ranges = True

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/files/{sha256}", self._give)
        return app

    async def _give(self, request: web.Request) -> web.StreamResponse:
        sha256, wanted = request.match_info["sha256"], request.headers.get("Range", "")
        self.asked.append((sha256, wanted))
        if self.status:
            return web.Response(status=self.status)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        content = self.contents[sha256][start:]
        response = web.StreamResponse(
            status=206 if start else 200, headers={"Content-Length": str(len(content))}
        )
        await response.prepare(request)
        if self.breaks_after is not None and len(content) > self.breaks_after:
            await response.write(content[: self.breaks_after])
            self.breaks_after = None
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(content)
        return response

    def listed(self, files: dict[str, bytes]) -> list[dict[str, Any]]:
        found = []
        for path, content in sorted(files.items()):
            sha256 = hashlib.sha256(content).hexdigest()
            self.contents[sha256] = content
            found.append({"path": path, "sha256": sha256, "size": len(content), "url": f"/files/{sha256}"})
        return found

    def errand(
        self, name: str, files: dict[str, bytes], *, base: dict[str, Any] | None = None, **more: Any
    ) -> dict[str, Any]:
        """As the marketplace says it."""
        return {
            "model": name, "digest": digest(files), "kind": "adapter" if base else "full", "family": "causal",
            "state": "wanted", "asked_at": "1", "files": self.listed(files), "base": base, **more,
        }  # fmt: skip


def digest(files: dict[str, bytes]) -> str:
    named = {path: (hashlib.sha256(each).hexdigest(), len(each)) for path, each in files.items()}
    return hashlib.sha256(model_files.manifest(named)).hexdigest()


class Place:
    def __init__(self, engine: Engines, files: Files, hosting: Hosting, intake: Intake, folder: Path) -> None:
        self.engine, self.files, self.hosting, self.intake, self.folder = (
            engine,
            files,
            hosting,
            intake,
            folder,
        )

    def states(self) -> dict[str, str]:
        return {each["model"]: each["state"] for each in self.hosting.states()}

    async def become(self, **states: str) -> None:
        await until(lambda: self.states() == states)

    def reason(self) -> str:
        return str(self.hosting.states()[0]["reason"])


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Any]]:
    monkeypatch.setattr(hosting, "PAUSE_S", 0.01)
    monkeypatch.setattr(cache, "SPARE", 0)
    async with AsyncExitStack() as stack:

        async def start(*given: str) -> Place:
            files, engine = Files(), Engines()
            server = TestServer(files.app())
            await server.start_server()
            stack.push_async_callback(server.close)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            arguments = ["--marketplace", str(server.make_url("/")), "--state-dir", str(tmp_path), *given]
            parsed, intake = options.parse(arguments, {}), Intake([engine])
            found = Hosting(parsed, engine, intake, session=lambda: session)
            found.start()
            stack.push_async_callback(found.close)
            return Place(engine, files, found, intake, tmp_path / "hosted")

        yield start


async def test_what_is_wanted_is_fetched_tried_and_offered(place: Callable[..., Any]) -> None:
    here = await place()
    here.hosting.heed([here.files.errand("alice/tiny", models.full())])
    await here.become(**{"alice/tiny": "serving"})
    label = digest(models.full())[:12]
    assert [(offer.name, offer.revision) for offer in here.intake.offers()] == [
        ("llama", ""),
        ("alice/tiny", label),
    ]
    folder = here.engine.loaded[f"alice/tiny@{label}"].folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == models.full()


async def test_it_is_let_go_when_it_is_wanted_no_longer_and_its_files_stay_for_the_next_time(
    place: Callable[..., Any],
) -> None:
    here = await place()
    errand = here.files.errand("tiny", models.full())
    here.hosting.heed([errand])
    await here.become(tiny="serving")
    here.hosting.heed([])
    await until(lambda: not here.engine.loaded)
    assert here.states() == {}
    asked = len(here.files.asked)
    here.hosting.heed([errand])
    await here.become(tiny="serving")
    assert len(here.files.asked) == asked


async def test_a_download_that_breaks_off_goes_on_where_it_was(place: Callable[..., Any]) -> None:
    here = await place()
    content = {**models.full(), "vocab.txt": b"word\n" * 100_000}
    here.files.breaks_after = 100_000
    here.hosting.heed([here.files.errand("tiny", {"vocab.txt": content.pop("vocab.txt"), **content})])
    await here.become(tiny="serving")
    ranges = [wanted for _, wanted in here.files.asked if wanted]
    assert ranges  # it did not begin anew
    assert ranges != ["bytes=0-"]


async def test_a_server_that_begins_anew_is_put_up_with(place: Callable[..., Any]) -> None:
    here = await place()
    here.files.breaks_after, here.files.ranges = 100_000, False
    here.hosting.heed([here.files.errand("tiny", {**models.full(), "vocab.txt": b"word\n" * 100_000})])
    await here.become(tiny="serving")


async def test_other_contents_than_announced_are_not_used(place: Callable[..., Any]) -> None:
    here = await place()
    errand = here.files.errand("tiny", models.full())
    for sha256, content in here.files.contents.items():
        here.files.contents[sha256] = content[:-1] + b"!"
    here.hosting.heed([errand])
    await here.become(tiny="failed")
    assert "not what was announced" in here.reason()
    assert list((here.folder / "blobs").iterdir()) == []


async def test_files_that_are_not_those_of_the_revision_are_not_fetched(place: Callable[..., Any]) -> None:
    here = await place()
    here.hosting.heed([{**here.files.errand("tiny", models.full()), "digest": "0" * 64}])
    assert (here.states(), here.files.asked) == ({}, [])


@pytest.mark.parametrize(
    "files",
    [
        {"../outside.json": b"{}"},
        {"model.bin": b"\x80"},
        {"modules.json": b'[{"type": "os.system", "path": ""}]'},
        {"model.safetensors": b"nothing"},
    ],
)
async def test_what_could_run_code_is_not_loaded_whatever_the_marketplace_says(
    place: Callable[..., Any], files: dict[str, bytes]
) -> None:
    here = await place()
    here.hosting.heed([here.files.errand("tiny", {**models.full(), **files})])
    if here.states():
        await here.become(tiny="failed")
    assert here.engine.loaded == {}


async def test_the_engines_refusal_is_told_and_nothing_is_tried_again_until_asked(
    place: Callable[..., Any],
) -> None:
    here = await place()
    here.engine.refuses = "It is out of memory."
    errand = here.files.errand("tiny", models.full())
    here.hosting.heed([errand])
    await here.become(tiny="failed")
    assert here.reason() == "It is out of memory."
    here.engine.refuses = ""
    here.hosting.heed([errand])
    assert here.states() == {"tiny": "failed"}
    here.hosting.heed([errand | {"asked_at": "2"}])
    await here.become(tiny="serving")


@pytest.mark.parametrize(
    "said", [{"choices": []}, {"data": [{"embedding": [0.0]}]}, {"error": "no"}, "nonsense"]
)
async def test_a_model_that_does_not_answer_sensibly_is_not_offered(
    place: Callable[..., Any], said: Any
) -> None:
    here = await place()
    here.engine.answer = said
    here.hosting.heed([here.files.errand("tiny", models.full())])
    await here.become(tiny="failed")
    assert "does not answer as it should" in here.reason()
    assert [offer.name for offer in here.intake.offers()] == ["llama"]
    await until(lambda: not here.engine.loaded)


async def test_a_new_revision_replaces_the_old_one_only_when_it_serves(place: Callable[..., Any]) -> None:
    here = await place()
    old, new = (here.files.errand("tiny", models.full(fill)) for fill in (1, 2))
    here.hosting.heed([old])
    await here.become(tiny="serving")
    here.engine.gate = asyncio.Event()
    here.hosting.heed([new])
    await asyncio.sleep(0.1)
    assert here.engine.shown["tiny"].endswith(old["digest"][:12])
    here.engine.gate.set()
    await until(lambda: here.engine.shown["tiny"].endswith(new["digest"][:12]))
    await until(lambda: len(here.engine.loaded) == 1)
    assert here.hosting.states() == [
        {"model": "tiny", "revision": new["digest"], "state": "serving", "reason": ""}
    ]


async def test_an_adapters_base_is_fetched_unless_it_is_here(place: Callable[..., Any]) -> None:
    here = await place()
    base = {"model": "base", "digest": digest(models.full()), "files": here.files.listed(models.full())}
    adapter = here.files.errand("lora", models.adapter("base"), base=base)
    here.hosting.heed([adapter])
    await here.become(lora="serving")
    (guest,) = here.engine.loaded.values()
    assert guest.base_folder is not None
    assert (guest.base_folder / "config.json").exists()
    here.hosting.heed([])
    await until(lambda: not here.engine.loaded)
    here.engine.bases.add(base["digest"])
    here.hosting.heed([adapter])
    await here.become(lora="serving")
    assert next(iter(here.engine.loaded.values())).base_folder is None


async def test_the_longest_unused_files_make_room_for_others(place: Callable[..., Any]) -> None:
    here = await place("--host-cache", str(1_000_000 / cache.GIB))
    large = [{**models.full(), "vocab.txt": bytes([fill]) * 600_000} for fill in (1, 2)]
    here.hosting.heed([here.files.errand("one", large[0])])
    await here.become(one="serving")
    here.hosting.heed([])
    await until(lambda: not here.engine.loaded)
    here.hosting.heed([here.files.errand("two", large[1])])
    await here.become(two="serving")
    sizes = [path.stat().st_size for path in (here.folder / "blobs").iterdir()]
    assert sizes.count(600_000) == 1


async def test_what_does_not_fit_beside_what_is_loaded_is_refused(place: Callable[..., Any]) -> None:
    here = await place("--host-cache", str(1_000_000 / cache.GIB))
    large = [{**models.full(), "vocab.txt": bytes([fill]) * 600_000} for fill in (1, 2)]
    errands = [here.files.errand(name, files) for name, files in zip(("one", "two"), large, strict=True)]
    here.hosting.heed(errands[:1])
    await here.become(one="serving")
    here.hosting.heed(errands)
    await here.become(one="serving", two="failed")
    assert "--host-cache" in here.hosting.states()[1]["reason"]


async def test_an_expired_link_is_asked_for_again(place: Callable[..., Any]) -> None:
    here = await place()
    errand = here.files.errand("tiny", models.full())
    here.files.status = 403

    def ask() -> None:
        here.files.status = 0
        here.hosting.heed([errand | {"state": "loading"}])

    here.hosting.ask = ask
    here.hosting.heed([errand])
    await here.become(tiny="serving")


async def test_what_the_marketplace_knows_wrongly_it_is_told_again(place: Callable[..., Any]) -> None:
    here = await place()
    errand = here.files.errand("tiny", models.full())
    here.hosting.heed([errand])
    await here.become(tiny="serving")
    here.hosting.news.clear()
    here.hosting.heed([errand | {"state": "serving"}])
    assert not here.hosting.news.is_set()
    here.hosting.heed([errand | {"state": "loading"}])
    assert here.hosting.news.is_set()


async def test_nothing_new_is_begun_while_the_node_drains(place: Callable[..., Any]) -> None:
    here = await place()
    here.intake.draining = True
    here.hosting.heed([here.files.errand("tiny", models.full())])
    assert here.states() == {}


async def test_a_node_that_does_not_host_says_so(place: Callable[..., Any]) -> None:
    here = await place("--no-hosting")
    assert here.hosting.talent() is None
    here.hosting.heed([here.files.errand("tiny", models.full())])
    assert here.states() == {}
    other = await place("--host-most", "7")
    assert other.hosting.talent()["most"] == 7
