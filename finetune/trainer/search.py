"""Several trainings with other hyper-parameters each, chosen by TPE (optuna); the best one is kept.

The first trial is as it was asked for, so that searching never makes the result worse. What comes next depends on the
seed and on the trials before only, and those are in each checkpoint: a search that was interrupted goes on with the
trial that was under way, on another machine too.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from finetune.trainer import courses, events, states
from finetune.trainer.errors import NotFinite
from finetune.trainer.spec import Spec
from finetune.trainer.states import BadState, Shelf

_JOURNAL, _BEST, _TRIAL = "search.json", "best", "trial"
# So many are chosen by chance before the model of the good ones is asked.
_BY_CHANCE = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """One that is over. `said`: what its `finished` said; None where it came to nothing."""

    tried: dict[str, Any]
    said: dict[str, Any] | None

    @property
    def score(self) -> float | None:
        return None if self.said is None else float(self.said["after"][self.said["main"]])


def train(spec: Spec, shelf: Shelf) -> dict[str, Any]:
    """What `finished` says, of the best trial; tokens and seconds are those of all. Raises TrainingError, Stopped."""
    return _Search(spec, shelf).run()


def space(spec: Spec) -> dict[str, BaseDistribution]:
    """What is varied, around what was asked for. How long is trained is not: that has been paid for."""
    asked = spec.parameters
    rate = asked["learning_rate"]
    found: dict[str, BaseDistribution] = {
        "learning_rate": FloatDistribution(rate / 4, rate * 4, log=True),
        "warmup_ratio": _one_of(asked["warmup_ratio"], 0.0, 0.1, 0.2),
        "weight_decay": _one_of(asked["weight_decay"], 0.0, 1e-4, 1e-2),
    }
    if (spec.method == "causal" and not spec.adapter) or asked.get("adapter"):
        found["lora_rank"] = _one_of(asked["lora_rank"], 8, 16, 32)
    if asked.get("loss") == "margin_ranking":
        found["margin"] = _one_of(asked["margin"], 0.01, 0.025, 0.05)
    if asked.get("loss") in ("mnr", "cosent"):
        found["scale"] = _one_of(asked["scale"], 10.0, 20.0, 40.0)
    return found


def _one_of(*values: Any) -> CategoricalDistribution:
    return CategoricalDistribution(sorted(set(values)))


def suggest(
    among: dict[str, BaseDistribution], trials: list[Trial], *, higher_is_better: bool, seed: int
) -> dict[str, Any]:
    """What to try after these trials. The same question gets the same answer."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(n_startup_trials=_BY_CHANCE, seed=seed + len(trials))
    study = optuna.create_study(direction="maximize" if higher_is_better else "minimize", sampler=sampler)
    for trial in trials:
        state = TrialState.COMPLETE if trial.score is not None else TrialState.FAIL
        study.add_trial(
            optuna.create_trial(state=state, value=trial.score, params=trial.tried, distributions=among)
        )
    return dict(study.ask(among).params)


class _Search:
    def __init__(self, spec: Spec, shelf: Shelf) -> None:
        self._spec, self._shelf, self._space = spec, shelf, space(spec)
        self._kept = Path(spec.folder) / "best-trial"
        self._count = int(spec.parameters["search_trials"])
        self._trials: list[Trial] = []
        self._best: Trial | None = None
        self._step = 0

    def run(self) -> dict[str, Any]:
        began = time.monotonic()
        self._restore()
        while len(self._trials) < self._count:
            self._try(len(self._trials))
        if self._best is None or self._best.said is None:
            raise NotFinite("In none of the trials the loss stayed a number.")
        if events.is_speaker():
            shutil.rmtree(self._spec.result, ignore_errors=True)
            states.link(self._kept, self._spec.result)
        tokens = sum(trial.said["tokens"] for trial in self._trials if trial.said)
        return self._best.said | {"tokens": tokens, "seconds": time.monotonic() - began}

    def _try(self, number: int) -> None:
        """One trial; what came of it is in the journal then, and in a checkpoint."""
        tried = self._tried(number)
        # The scale goes along with the rank.
        alpha = {"lora_alpha": 2.0 * tried["lora_rank"]} if number and "lora_rank" in tried else {}
        folder = Path(self._spec.folder) / f"{_TRIAL}-{number}"
        spec = replace(self._spec, folder=str(folder), parameters=self._spec.parameters | tried | alpha)
        shelf = self._shelf.part(_TRIAL, offset=self._step, around=self._write, fits=self._fits)
        said: dict[str, Any] | None = None
        try:
            said = courses.train(spec, shelf, part=(number, self._count))
        except NotFinite as error:
            events.say(events.MESSAGE, level="warn", text=f"Trial {number + 1} came to nothing: {error}")
        trial = Trial(tried, said)
        self._trials.append(trial)
        if said is not None:
            self._step += said["steps"]
            self._consider(trial, spec)
            events.say(
                events.TRIAL, number=number + 1, trials=self._count, parameters=tried, score=trial.score
            )
        if events.is_speaker():
            shutil.rmtree(folder, ignore_errors=True)
            if len(self._trials) < self._count:
                self._shelf.write(self._step, self._write, metrics={})

    def _tried(self, number: int) -> dict[str, Any]:
        if number == 0:
            return {name: self._spec.parameters[name] for name in self._space}
        first = next((trial.said for trial in self._trials if trial.said), None)
        is_higher = bool(first["higher_is_better"]) if first else False
        return suggest(self._space, self._trials, higher_is_better=is_higher, seed=self._spec.seed)

    def _consider(self, trial: Trial, spec: Spec) -> None:
        best, score = self._best, trial.score
        if best is not None and best.said is not None and best.score is not None and score is not None:
            gain = score - best.score
            if (gain if best.said["higher_is_better"] else -gain) <= 0:
                return
        self._best = trial
        if events.is_speaker():
            shutil.rmtree(self._kept, ignore_errors=True)
            spec.result.rename(self._kept)

    # What of it is in a checkpoint

    def _write(self, folder: Path) -> None:
        best = self._trials.index(self._best) if self._best else None
        trials = [asdict(trial) for trial in self._trials]
        states.write_json(folder / _JOURNAL, {"trials": trials, "best": best, "step": self._step})
        if self._best:
            states.link(self._kept, folder / _BEST)

    def _fits(self, checkpoint: Path) -> bool:
        """Whether a checkpoint was written during the present trial."""
        return len(states.read_json(checkpoint / _JOURNAL)["trials"]) == len(self._trials)

    def _restore(self) -> None:
        while (newest := self._shelf.newest_whole()) is not None:
            try:
                self._read(newest)
            except (BadState, KeyError, TypeError, IndexError, ValueError) as error:
                events.say(events.MESSAGE, level="warn", text=f"A checkpoint was thrown away: {error}")
                self._shelf.drop()
            else:
                return

    def _read(self, checkpoint: Path) -> None:
        said = states.read_json(checkpoint / _JOURNAL)
        trials = [Trial(each["tried"], each["said"]) for each in said["trials"]]
        best = trials[said["best"]] if said["best"] is not None else None
        self._step, self._trials, self._best = int(said["step"]), trials, best
        if best is not None and events.is_speaker():
            shutil.rmtree(self._kept, ignore_errors=True)
            states.link(checkpoint / _BEST, self._kept)
