"""`python -m finetune.trainer SPEC`."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from finetune.trainer import events, spec
from finetune.trainer.spec import Spec, WrongSpec

_PACKAGES = ("torch", "transformers", "sentence-transformers", "peft", "accelerate")
_PR_SET_PDEATHSIG = 1


def main() -> int:
    _die_with_parent()
    try:
        told = spec.read(Path(sys.argv[1]))
    except (IndexError, WrongSpec) as error:
        events.say(events.FAILED, code="bad_spec", text=str(error), retry=False)
        return 1
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return _train(told)


def _train(told: Spec) -> int:
    import torch  # noqa: PLC0415 - slow to import, and reads the environment

    from finetune.trainer import causal  # noqa: PLC0415 - likewise
    from finetune.trainer.telling import Stopped  # noqa: PLC0415 - likewise

    resume = _newest(told.checkpoints)
    torch.manual_seed(told.seed)
    step = int(resume.name.rsplit("-", 1)[1]) if resume else 0
    events.say(
        events.STARTED, hardware=_hardware(torch), versions=_versions(), seed=told.seed, resumed_step=step
    )
    try:
        finished = causal.train(told, resume=resume)
    except Stopped:
        return events.STOPPED_STATUS
    except torch.cuda.OutOfMemoryError as error:
        events.say(events.FAILED, code="out_of_memory", text=_first_line(error), retry=True)
        return 1
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        events.say(events.FAILED, code="training_failed", text=_first_line(error), retry=False)
        raise
    events.say(events.FINISHED, **finished)
    return 0


def _newest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole."""
    found = [
        path for path in folder.glob("checkpoint-*")
        if re.fullmatch(r"checkpoint-\d+", path.name) and (path / "trainer_state.json").exists()
    ]  # fmt: skip
    return max(found, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)


def _die_with_parent() -> None:
    """End when whoever started us has ended, however that happened."""
    parent = int(os.environ.get("TRAINER_PARENT", "0"))
    if not parent:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        # With several GPUs a launcher stands in between.
        first = os.getppid()
        while os.getppid() == first:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _hardware(torch: Any) -> dict[str, Any]:
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        memory = int(about.total_memory / 2**20)
        return {
            "device": "cuda",
            "name": about.name,
            "count": torch.cuda.device_count(),
            "memory_mib": memory,
        }
    return {"device": "cpu", "name": f"{os.cpu_count()} CPU cores", "count": torch.get_num_threads()}


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:500]


if __name__ == "__main__":
    sys.exit(main())
