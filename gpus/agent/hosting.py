"""The marketplace's models on this node: fetched, loaded and tried while others are answered, then offered; let go when
they are wanted no longer.

The marketplace's errands say which there should be, and how they stand as far as it knows; what it knows wrongly it is
told again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from yarl import URL

from gpus import model_files
from gpus.agent.cache import GIB, STALLED_S, Cache, CannotFetch, File, digest_of
from gpus.agent.engines import CannotHost, Engine, Guest, Offer, Refusal
from gpus.agent.intake import Intake
from gpus.agent.options import Options

logger = logging.getLogger(__name__)

LOADING, SERVING, FAILED = "loading", "serving", "failed"
# A download that breaks off is gone on with, each time after a longer pause.
TRIES, PAUSE_S = 6, 1.0
TRIED_WITHIN_S = 120.0
# So often is the marketplace told how much has been fetched.
PROGRESS_S = 10.0
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model as the marketplace wants it served. `digest` is checked against the files.

    `state` is what it knows of how that stands, and `asked` when it has asked for it, in its words.
    """

    name: str
    digest: str
    family: str
    is_adapter: bool
    files: tuple[File, ...]
    base: str = ""
    base_digest: str = ""
    base_files: tuple[File, ...] = ()
    state: str = ""
    asked: str = ""

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Wanted:
        """Raises CannotFetch where it is not what a marketplace would say."""
        base = said.get("base") if isinstance(said.get("base"), Mapping) else None
        name, is_adapter = str(said.get("model") or ""), said.get("kind") == model_files.ADAPTER
        if not name or len(name) > 255 or (is_adapter and base is None):
            raise CannotFetch("The marketplace does not say what it is.")
        digest, files = _listed(said)
        base_digest, base_files = _listed(base) if base else ("", ())
        return cls(
            name,
            digest,
            str(said.get("family")),
            is_adapter,
            files,
            str(base["model"]) if base else "",
            base_digest,
            base_files,
            str(said.get("state") or ""),
            str(said.get("asked_at") or ""),
        )


def _listed(said: Mapping[str, Any]) -> tuple[str, tuple[File, ...]]:
    listed, digest = said.get("files"), str(said.get("digest"))
    if not isinstance(listed, list) or not _DIGEST.fullmatch(digest):
        raise CannotFetch("The marketplace does not say what its files are.")
    if len(listed) > model_files.MOST_FILES:
        raise CannotFetch("It has too many files.")
    files = tuple(File.read(each) for each in listed if isinstance(each, Mapping))
    if digest_of(files) != digest:
        raise CannotFetch("Its files are not those of the revision that it should be.")
    return digest, files


@dataclass(slots=True, eq=False)
class _Stay:
    """One model on this node, from when it is wanted until it is not."""

    wanted: Wanted
    state: str = LOADING
    reason: str = ""
    guest: Guest | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        wanted = self.wanted
        return {"model": wanted.name, "revision": wanted.digest, "state": self.state, "reason": self.reason}


class Hosting:
    """All hosted models of a node. `session` for downloads; `ask` has the marketplace asked for errands again."""

    def __init__(
        self,
        options: Options,
        engine: Engine | None,
        intake: Intake,
        *,
        session: Callable[[], aiohttp.ClientSession],
    ) -> None:
        self._options, self._engine, self._intake, self._session = options, engine, intake, session
        self._marketplace = URL(options.marketplace + "/")
        self._cache = Cache(options.state_dir / "hosted", limit=int(options.host_cache_gib * GIB))
        self._stays: dict[tuple[str, str], _Stay] = {}
        self._turn = asyncio.Lock()
        self.news = asyncio.Event()
        self.ask: Callable[[], None] = lambda: None

    @property
    def can_host(self) -> bool:
        return self._options.hosting and self._engine is not None and self._engine.hosting is not None

    def talent(self) -> dict[str, Any] | None:
        """What the marketplace is told: gpus.talents.HostingTalent. None: nothing is hosted here."""
        hosting = self._engine.hosting if self._engine is not None and self._options.hosting else None
        return None if hosting is None else {**hosting, "most": self._options.host_most}

    def states(self) -> list[dict[str, Any]]:
        """How it stands with each, for the marketplace."""
        return [stay.to_json() for stay in self._stays.values()]

    def start(self) -> None:
        """Make the folders ready. Raises OSError."""
        if self.can_host:
            self._cache.prepare()

    def heed(self, errands: Iterable[Mapping[str, Any]]) -> None:
        """Serve what the marketplace wants served here, and of its models nothing else."""
        there: set[tuple[str, str]] = set()
        for errand in errands if self.can_host else ():
            try:
                wanted = Wanted.read(errand)
            except CannotFetch as error:
                logger.warning("A model cannot be hosted: %s", error)
                continue
            there.add((wanted.name, wanted.digest))
            self._want(wanted)
        for key in self._stays.keys() - there:
            self._let_go(self._stays[key], successor=any(name == key[0] for name, _ in there))

    def _want(self, wanted: Wanted) -> None:
        stay = self._stays.get((wanted.name, wanted.digest))
        if stay is None and self._intake.draining:
            return
        if stay is None or self._is_over(stay, wanted):
            stay = self._stays[wanted.name, wanted.digest] = _Stay(wanted)
            stay.task = asyncio.create_task(self._keep(stay))
        else:
            stay.wanted = wanted  # its links are fresher
            if wanted.state != stay.state:
                self.news.set()

    def _is_over(self, stay: _Stay, wanted: Wanted) -> bool:
        """Whether it must be brought in again: it has failed and is asked for anew, or the engine has lost it."""
        if stay.state == FAILED:
            return stay.wanted.asked != wanted.asked
        assert self._engine is not None
        return stay.state == SERVING and stay.guest is not None and not self._engine.has_guest(stay.guest)

    def _let_go(self, stay: _Stay, *, successor: bool) -> None:
        """Wanted no longer; where another revision is to take its place, it serves until that does."""
        if successor and stay.state == SERVING:
            return
        del self._stays[stay.wanted.name, stay.wanted.digest]
        if stay.task is not None:
            stay.task.cancel()
        stay.task = asyncio.create_task(self._part(stay))

    async def _part(self, stay: _Stay) -> None:
        if stay.guest is not None and self._engine is not None:
            await self._engine.dismiss(stay.guest)
            print(f"no longer hosting {stay.wanted.name}", flush=True)
        self._cache.release(stay.wanted.digest)

    async def close(self) -> None:
        """End what is being loaded."""
        tasks = [stay.task for stay in self._stays.values() if stay.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- Bringing one in ---------------------------------------------------------------------------------
    async def _keep(self, stay: _Stay) -> None:
        self._say(stay, LOADING, "It is being fetched.")
        try:
            await self._bring(stay)
        except (CannotFetch, CannotHost, model_files.BadFile, Refusal, OSError, TimeoutError) as error:
            self._fail(stay, str(error) or type(error).__name__)
        except Exception:
            logger.exception("Hosting %s failed unforeseen", stay.wanted.name)
            self._fail(stay, "The agent failed; its log says why.")
            raise

    def _fail(self, stay: _Stay, why: str) -> None:
        stay.task = asyncio.create_task(self._part(stay))
        if self._intake.draining:
            del self._stays[stay.wanted.name, stay.wanted.digest]
            return
        logger.warning("%s cannot be hosted: %s", stay.wanted.name, why)
        self._say(stay, FAILED, why[:500])

    def _say(self, stay: _Stay, state: str, reason: str) -> None:
        stay.state, stay.reason = state, reason
        self.news.set()

    async def _bring(self, stay: _Stay) -> None:
        engine = self._engine
        assert engine is not None
        wanted = stay.wanted
        needs_base = wanted.is_adapter and not await engine.has_base(wanted.base, wanted.base_digest)
        files = [*wanted.files, *(wanted.base_files if needs_base else ())]
        self._cache.use(wanted.digest, files)
        await self._fetch(stay, files)
        guest = Guest(
            wanted.name,
            wanted.digest,
            wanted.family,
            await asyncio.to_thread(self._cache.lay_out, wanted.digest, wanted.files, "model"),
            wanted.is_adapter,
            wanted.base,
            wanted.base_digest,
            await asyncio.to_thread(self._cache.lay_out, wanted.digest, wanted.base_files, "base")
            if needs_base
            else None,
        )
        self._say(stay, LOADING, "It is being loaded.")
        async with self._turn:
            await engine.host(guest)
        stay.guest = guest
        await self._try(guest)
        engine.offer_guest(guest)
        self._say(stay, SERVING, "")
        print(f"hosting {guest.name} ({guest.label})", flush=True)
        for other in [
            each for each in self._stays.values() if each is not stay and each.wanted.name == guest.name
        ]:
            self._let_go(other, successor=False)

    async def _fetch(self, stay: _Stay, files: list[File]) -> None:
        total, done, told = sum(file.size for file in files), 0, asyncio.get_running_loop().time()
        for file in files:
            await self._fetch_one(stay, file)
            done += file.size
            if asyncio.get_running_loop().time() > told + PROGRESS_S:
                told = asyncio.get_running_loop().time()
                self._say(stay, LOADING, f"{done / GIB:.2f} of {total / GIB:.2f} GiB are here.")

    async def _fetch_one(self, stay: _Stay, file: File) -> None:
        for number in range(TRIES):
            try:
                await self._cache.fetch(_fresh(stay.wanted, file), self._open)
                return
            except CannotFetch as error:
                if not error.again or number == TRIES - 1:
                    raise
                logger.info("%s; trying again", error)
                self.ask()  # for a fresh link, should this one have expired
                await asyncio.sleep(PAUSE_S * 2**number)

    async def _open(self, url: str, start: int) -> aiohttp.ClientResponse:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=STALLED_S)
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        return await self._session().get(self._marketplace.join(URL(url)), headers=headers, timeout=timeout)

    async def _try(self, guest: Guest) -> None:
        """Ask it something, the way in which consumers' requests come. Raises CannotHost."""
        _, offer = self._intake.find(guest.key)
        path, body = _probe(offer)
        async with asyncio.timeout(TRIED_WITHIN_S), self._intake.visit(path, body) as answer:
            said = b"".join([chunk async for chunk in answer])
        if answer.status != 200 or not _makes_sense(said):
            raise CannotHost(f"It does not answer as it should: {said[:200].decode(errors='replace')}")


def _fresh(wanted: Wanted, file: File) -> File:
    """The same file by the newest link."""
    known = {each.sha256: each for each in (*wanted.base_files, *wanted.files)}
    return known.get(file.sha256, file)


def _probe(offer: Offer) -> tuple[str, bytes]:
    if "embedding" in offer.kinds:
        return "/v1/embeddings", orjson.dumps({"model": offer.name, "input": "Hello"})
    # Not every chat template takes a lone question; every language model goes on from a text.
    return "/v1/completions", orjson.dumps({"model": offer.name, "prompt": "Hello", "max_tokens": 2})


def _makes_sense(body: bytes) -> bool:
    """Whether there is an answer in it: a choice, or a vector of numbers that are some."""
    try:
        said = orjson.loads(body)
        if "choices" in said:
            return bool(said["choices"])
        vector = said["data"][0]["embedding"]
        return bool(vector) and all(math.isfinite(number) for number in vector) and any(vector)
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return False
