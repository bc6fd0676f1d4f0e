"""A small search for hyper-parameters."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.trainer import courses, events, search, stopping
from finetune.trainer.errors import NotFinite, Stopped
from finetune.trainer.search import Trial
from finetune.trainer.spec import Spec
from tests.finetune.trainer.conftest import Ear, other

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*Experimental"
)

Made = Callable[..., Spec]
Train = Callable[[Spec], dict[str, Any]]
ASKED = {"search_trials": 4, "n_epochs": 1, "evaluations": 1, "checkpoints": 1}


def test_the_best_trial_is_the_result(causal: Made, train: Train, ear: Ear) -> None:
    spec = causal(**ASKED)
    said = train(spec)
    trials = ear.all("trial")
    assert [each["number"] for each in trials] == [1, 2, 3, 4]
    assert said["after"]["eval_loss"] == min(each["score"] for each in trials)
    best = min(trials, key=lambda each: each["score"])
    metrics = json.loads((spec.result / "metrics.json").read_text())
    assert metrics["parameters"] | best["parameters"] == metrics["parameters"]
    assert metrics["after"] == said["after"]
    assert said["tokens"] == pytest.approx(4 * ear.all("data")[0]["tokens"], rel=0.01)


def test_the_first_trial_is_as_asked_for(causal: Made, train: Train, ear: Ear) -> None:
    spec = causal(**ASKED | {"search_trials": 2})
    train(spec)
    first = ear.all("trial")[0]["parameters"]
    assert spec.parameters | first == spec.parameters
    plain = train(other(causal(name="plain", **ASKED | {"search_trials": 0})))
    assert plain["after"]["eval_loss"] == ear.all("trial")[0]["score"]


def test_the_steps_are_told_as_one_training(causal: Made, train: Train, ear: Ear) -> None:
    train(causal(**ASKED))
    steps = [each["step"] for each in ear.all("progress")]
    assert steps == list(range(1, 4 * 5 + 1))
    assert {each["steps"] for each in ear.all("progress")} == {20}
    assert [each["when"] for each in ear.all("evaluated")].count("before") == 1
    told = [each["step"] for each in ear.all("checkpoint")]
    assert told == sorted(told)


def test_the_same_seed_makes_the_same_search(causal: Made, train: Train, ear: Ear) -> None:
    train(causal(name="one", **ASKED))
    first = ear.all("trial")
    ear.heard.clear()
    train(causal(name="two", **ASKED))
    assert ear.all("trial") == first


@pytest.mark.parametrize("after", [5, 18])
def test_an_interrupted_search_goes_on_elsewhere(
    causal: Made, train: Train, ear: Ear, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, after: int
) -> None:
    whole = train(causal(name="whole", **ASKED))
    trials = ear.all("trial")
    ear.heard.clear()
    spec = causal(**ASKED)

    def ask(said: dict[str, Any]) -> None:
        if said["step"] == after:
            monkeypatch.setattr(stopping, "_asked", True)

    ear.on[events.PROGRESS] = ask
    with pytest.raises(Stopped):
        train(spec)
    monkeypatch.setattr(stopping, "_asked", False)
    ear.on.clear()
    moved = other(spec, folder=str(tmp_path / "elsewhere"))
    newest = courses.shelf_of(spec).newest_whole()
    assert newest is not None
    shutil.copytree(newest, moved.checkpoints / newest.name)
    shutil.rmtree(spec.folder)
    again = train(moved)
    assert ear.all("trial") == trials
    for name in ("before", "after", "step", "tokens", "is_better"):
        assert again[name] == whole[name]
    assert (moved.result / "adapter_model.safetensors").exists()


def test_a_trial_whose_loss_explodes_is_left_behind(
    causal: Made, train: Train, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = courses.train, []

    def second_fails(*args: Any, **kwargs: Any) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 2:
            raise NotFinite("nan")
        return real(*args, **kwargs)

    monkeypatch.setattr(courses, "train", second_fails)
    said = train(causal(**ASKED))
    assert said["is_better"]
    assert [each["number"] for each in ear.all("trial")] == [1, 3, 4]
    assert "Trial 2 came to nothing" in ear.all("message")[0]["text"]


def test_tpe_goes_where_it_is_good(causal: Made) -> None:
    spec = causal(**ASKED)
    among = search.space(spec)
    rate = spec.parameters["learning_rate"]
    trials: list[Trial] = []
    for _ in range(18):
        tried = search.suggest(among, trials, higher_is_better=False, seed=1)
        score = abs(tried["learning_rate"] - 2 * rate)
        trials.append(Trial(tried, {"main": "x", "after": {"x": score}, "higher_is_better": False}))
    scores = [trial.score or 0.0 for trial in trials]
    assert sum(scores[-6:]) < sum(scores[:6])
