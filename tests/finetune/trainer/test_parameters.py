"""Hyper-parameters: what may be said, and what "auto" comes to."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.trainer import parameters
from finetune.trainer.parameters import WrongParameters
from finetune.trainer.spec import Spec
from marketplace.embedded.home import PROJECT
from tests.finetune.trainer.conftest import chats, pairs, written

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

Train = Callable[[Spec], dict[str, Any]]


def auto(method: str, kind: str, rows: list[dict[str, Any]], base: Path, folder: Path) -> Spec:
    return Spec(
        method=method, base=str(base), rows=str(written(folder / "rows.jsonl", rows)), format=kind, seed=5,
        parameters=parameters.resolve(method, {}, rows=len(rows), kind=kind), folder=str(folder / "work"), device="cpu",
    )  # fmt: skip


def test_the_defaults_make_the_toy_better(train: Train, tmp_path: Path) -> None:
    from gpus.agent.engines import toy

    base = toy.ensure(PROJECT / ".local" / "test" / "models", say=print)
    said = train(auto("causal", "chat", chats(), base, tmp_path))
    assert said["is_better"]
    assert said["after"]["eval_loss"] < 0.8 * said["before"]["eval_loss"]


def test_the_defaults_make_an_embedding_model_better(train: Train, tmp_path: Path, minilm: Path) -> None:
    spec = auto("embedding", "pairs", pairs(), minilm, tmp_path)
    said = train(replace(spec, parameters=spec.parameters | {"max_length": 32}))
    assert said["is_better"]
    assert said["after"]["mrr"] > said["before"]["mrr"]


@pytest.mark.parametrize(
    ("method", "kind"),
    [("causal", form) for form in parameters.FORMATS_OF["causal"]]
    + [("embedding", kind) for kind in parameters.LOSSES_OF],
)
def test_nothing_said_is_a_full_set(method: str, kind: str) -> None:
    full = parameters.resolve(method, {}, rows=100, kind=kind)
    assert full.keys() == parameters.SCHEMAS[method].keys()
    assert parameters.resolve(method, dict.fromkeys(full, "auto"), rows=100, kind=kind) == full
    again = {name: value for name, value in full.items() if name != "max_length"}
    assert parameters.resolve(method, again, rows=100, kind=kind) == full, "what it says may be said"


def test_large_datasets_are_read_less_often_in_larger_batches() -> None:
    few, many = (parameters.resolve("causal", {}, rows=rows, kind="chat") for rows in (10, 50_000))
    assert few["n_epochs"] > many["n_epochs"]
    assert few["batch_size"] < many["batch_size"]


def test_the_multiplier_is_of_the_rate_that_would_be_chosen() -> None:
    plain = parameters.resolve("causal", {}, rows=100, kind="chat")["learning_rate"]
    asked = {"learning_rate_multiplier": 3}
    assert parameters.resolve("causal", asked, rows=100, kind="chat")["learning_rate"] == pytest.approx(
        3 * plain
    )
    asked |= {"learning_rate": 0.5}
    assert parameters.resolve("causal", asked, rows=100, kind="chat")["learning_rate"] == 0.5


def test_everything_that_is_wrong_is_said_at_once() -> None:
    asked = {"n_epochs": "many", "batch_size": 1.5, "learning_rte": 1, "schedule": "zigzag", "lora_rank": 0}
    with pytest.raises(WrongParameters) as caught:
        parameters.resolve("causal", asked, rows=100, kind="chat")
    assert caught.value.fields.keys() == asked.keys()


def test_a_loss_must_fit_the_rows() -> None:
    with pytest.raises(WrongParameters, match="cosent does not fit these rows; mnr would"):
        parameters.resolve("embedding", {"loss": "cosent"}, rows=100, kind="pairs")


def test_numbers_may_come_as_text() -> None:
    full = parameters.resolve("causal", {"n_epochs": "2", "learning_rate": "1e-4"}, rows=100, kind="chat")
    assert (full["n_epochs"], full["learning_rate"]) == (2.0, 1e-4)


@pytest.mark.parametrize("method", list(parameters.SCHEMAS))
def test_the_published_schema_describes_each(method: str) -> None:
    schema = parameters.json_schema(method)
    assert schema["properties"].keys() == parameters.SCHEMAS[method].keys()
    assert not [name for name, each in schema["properties"].items() if not each["description"]]
