"""`python -m finetune.trainer SPEC`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from finetune.trainer import events, spec, stopping
from finetune.trainer.errors import Stopped, TrainingError
from finetune.trainer.spec import Spec, WrongSpec

_PR_SET_PDEATHSIG = 1
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "warning",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# Threads that wait for each other by spinning make a training many times slower where others use the cores too.
_PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}


def main() -> int:
    _die_with_parent()
    events.claim_stdout()
    stopping.listen()
    try:
        told = spec.read(Path(sys.argv[1]))
    except (IndexError, WrongSpec) as error:
        return _failed("bad_spec", str(error))
    os.environ.update(_QUIET | {name: os.environ.get(name, value) for name, value in _PATIENT.items()})
    try:
        events.say(events.FINISHED, **_train(told))
    except Stopped:
        return events.STOPPED_STATUS
    except TrainingError as error:
        return _failed(error.code, str(error), retry=error.retry)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        # What the libraries below raise cannot be told in advance; the log has the rest.
        _failed("training_failed", _first_line(error))
        raise
    return 0


def _train(told: Spec) -> dict[str, Any]:
    from finetune.trainer import courses, devices  # noqa: PLC0415 - slow to import, and they read the environment

    shelf = courses.shelf_of(told)
    events.say(
        events.STARTED, hardware=devices.hardware(told.device), versions=devices.versions(), seed=told.seed,
        resumed_step=shelf.step(),
    )  # fmt: skip
    if told.parameters.get("search_trials", 0) > 1:
        from finetune.trainer import search  # noqa: PLC0415 - likewise

        return search.train(told, shelf)
    return courses.train(told, shelf)


def _failed(code: str, text: str, *, retry: bool = False) -> int:
    events.say(events.FAILED, code=code, text=text, retry=retry)
    return 1


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:500]


def _die_with_parent() -> None:
    """End when whoever started us has ended, however that happened."""
    parent = int(os.environ.get("TRAINER_PARENT", "0"))
    if not parent:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        # The other end of our standard input is our parent's, and nobody writes there: it closes when the parent ends,
        # also where a launcher (for several GPUs) stands in between, or where the parent was quicker than the line
        # above.
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
