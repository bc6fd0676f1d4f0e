"""`python -m finetune.trainer.node`: one training on a provider's node, for the agent that starts it.

On standard input comes a JSON object per line. The first says what to do: {"url", "path", "token", "folder", "cache",
"device", "gpus"}; later ones {"token": …} when the marketplace has given the node another, {"order": "hand back"} to
write a checkpoint and give the training back. When standard input ends, the agent has ended, and so does this at once.

It fetches what the training needs into the cache, runs the trainer, reports, sends checkpoints and the result. Exit
status 0: the attempt is over, whichever way; 1: it could not be brought to an end, and may be started again.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.trainer import fetching, packing
from finetune.trainer.fetching import Cache
from finetune.trainer.remote import Link, Over, Refused, RemoteDesk
from finetune.trainer.session import Session, Wanted
from finetune.trainer.spec import CHECKPOINTS, Spec

logger = logging.getLogger(__name__)

HAND_BACK = "hand back"
_ASK_EVERY_S = 1.5
# Of a state, unpacked: more than any training of such a base writes.
_MOST_UNPACKED = 1 << 40
_CACHE_BYTES = 50 * 1024**3


@dataclass(frozen=True, slots=True)
class Errand:
    """What the agent says first."""

    url: str
    path: str
    token: str
    folder: Path
    cache: Path
    device: str = ""
    gpus: int = 1
    cache_bytes: int = _CACHE_BYTES

    @classmethod
    def read(cls, line: str) -> Errand:
        said = json.loads(line)
        return cls(
            url=said["url"], path=said["path"], token=said["token"], folder=Path(said["folder"]),
            cache=Path(said["cache"]), device=str(said.get("device") or ""), gpus=int(said.get("gpus") or 1),
            cache_bytes=int(said.get("cache_bytes") or _CACHE_BYTES),
        )  # fmt: skip


class Training:
    """One attempt on this machine."""

    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self._link = Link(errand.url, errand.path, token=errand.token)
        self._session: Session | None = None
        self._handed_back = False

    def hear(self, said: Mapping[str, Any]) -> None:
        """A later line of the agent's. From its own thread."""
        if isinstance(said.get("token"), str):
            self._link.renew(said["token"])
        if said.get("order") == HAND_BACK:
            self._handed_back = True
            if self._session is not None:
                self._session.hand_back()

    def run(self) -> int:
        """The exit status."""
        folder = self._errand.folder
        try:
            briefing = self._link.briefing()
            desk = RemoteDesk(self._link, next_event=int(briefing["next_event"]))
            self._session = Session(
                lambda wanted: self._prepare(briefing, wanted), desk, gpus=self._errand.gpus,
                limit_s=float(briefing["limit_s"]), ask_every_s=_ASK_EVERY_S,
            )  # fmt: skip
            if self._handed_back:
                self._session.hand_back()
            self._run(desk)
        except Over as error:
            logger.info("The training is over: %s", error)
        except Refused as error:
            logger.error("The marketplace refuses: %s", error)
        except OSError as error:
            logger.error("The training could not be brought to an end: %s", error)
            return 1
        shutil.rmtree(folder, ignore_errors=True)
        return 0

    def _run(self, desk: RemoteDesk) -> None:
        assert self._session is not None
        try:
            self._session.run()
        except packing.BadArchive as error:
            desk.fail(code="bad_checkpoint", reason=str(error), retry=True)
        except fetching.WrongContent as error:
            desk.fail(code="fetching_failed", reason=str(error), retry=True)

    def _prepare(self, briefing: Mapping[str, Any], wanted: Wanted) -> Spec:
        """Bring everything into place. Raises CalledOff, WrongContent, BadArchive, OSError."""
        folder, cache = (
            self._errand.folder,
            Cache(self._errand.cache, self._link, most_bytes=self._errand.cache_bytes),
        )
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = briefing.get("checkpoint")
        if checkpoint:
            self._unpack(checkpoint, folder / CHECKPOINTS, cache, wanted)
        spec, adapter, validation = briefing["spec"], briefing.get("adapter"), briefing.get("validation")
        return Spec(
            method=spec["method"],
            base=str(cache.model(briefing["base"], wanted)),
            adapter=str(cache.model(adapter, wanted)) if adapter else "",
            rows=str(cache.file(briefing["rows"], wanted)),
            format=spec["format"],
            validation=str(cache.file(validation, wanted)) if validation else "",
            parameters=spec["parameters"],
            seed=int(spec["seed"]),
            folder=str(folder),
            device=self._errand.device,
            title=str(spec.get("title") or ""),
            labels=dict(spec.get("labels") or {}),
            most_tokens=int(spec.get("most_tokens") or 0),
        )

    @staticmethod
    def _unpack(about: Mapping[str, Any], checkpoints: Path, cache: Cache, wanted: Wanted) -> None:
        """Where this machine has a newer state already, that one is gone on from."""
        step = int(about["step"])
        target = checkpoints / f"checkpoint-{step}"
        if any(int(each.name.rsplit("-", 1)[1]) >= step for each in checkpoints.glob("checkpoint-*[0-9]")):
            return
        archive = cache.file(about, wanted)
        new = checkpoints / f"unpacking-{step}"
        shutil.rmtree(new, ignore_errors=True)
        packing.unpack(archive, new, most_bytes=_MOST_UNPACKED)
        new.rename(target)
        archive.unlink(missing_ok=True)


def _listen(training: Training) -> None:
    """Hear the agent out. Its end is ours, and the trainer's, which dies with us."""
    for line in sys.stdin:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict):
            training.hear(said)
    os._exit(1)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        errand = Errand.read(sys.stdin.readline())
    except (ValueError, KeyError, TypeError) as error:
        logger.error("No errand on standard input: %s", error)
        return 2
    training = Training(errand)
    threading.Thread(target=_listen, args=[training], daemon=True).start()
    return training.run()


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # the thread that listens waits for the agent
