"""A training that was interrupted goes on as if nothing had happened."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.trainer import courses, events, states, stopping
from finetune.trainer.errors import Stopped
from finetune.trainer.spec import Spec
from tests.finetune.trainer.conftest import Ear, other

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

Made = Callable[..., Spec]
Train = Callable[[Spec], dict[str, Any]]


@pytest.fixture
def interrupted(ear: Ear, train: Train, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`interrupted(spec, after=3)`: it is asked to stop in its third step, and does."""

    def run(spec: Spec, *, after: int) -> None:
        def ask(said: dict[str, Any]) -> None:
            if said["step"] == after - 1:
                monkeypatch.setattr(stopping, "_asked", True)

        ear.on[events.PROGRESS] = ask
        with pytest.raises(Stopped):
            train(spec)
        monkeypatch.setattr(stopping, "_asked", False)
        ear.on.clear()

    return run


@pytest.fixture
def whole(causal: Made, train: Train, ear: Ear) -> tuple[dict[str, Any], dict[int, float]]:
    """What a training that nobody interrupts says, with everything that draws random numbers; and its losses."""
    said = train(causal(name="whole", **NOISY))
    losses = ear.losses()
    ear.heard.clear()
    return said, losses


NOISY = {"lora_dropout": 0.1, "neftune_noise_alpha": 5.0, "batch_size": 4, "gradient_accumulation": 2}


@pytest.mark.parametrize("after", [2, 5, 9])  # 5 is the end of an epoch
def test_its_losses_are_the_same(
    causal: Made, train: Train, ear: Ear, whole: Any, interrupted: Callable[..., None], after: int
) -> None:
    said, losses = whole
    spec = causal(**NOISY)
    interrupted(spec, after=after)
    assert ear.all("checkpoint")[-1]["step"] == after
    before = ear.losses()
    ear.heard.clear()
    again = train(spec)
    assert set(ear.losses()) == set(range(after + 1, said["steps"] + 1))
    assert before | ear.losses() == losses
    for name in ("before", "after", "step", "tokens"):
        assert again[name] == said[name], name


def test_also_of_embedding_models(
    embedding: Made, train: Train, ear: Ear, interrupted: Callable[..., None]
) -> None:
    whole = train(embedding(name="whole", loss="mnr", n_epochs=2, max_steps=7))
    losses = ear.losses()
    ear.heard.clear()
    spec = embedding(loss="mnr", n_epochs=2, max_steps=7)
    interrupted(spec, after=6)  # in the second epoch
    before = ear.losses()
    again = train(spec)
    assert before | ear.losses() == losses
    assert again["after"] == whole["after"]


def test_rows_in_a_random_order_are_found_again(
    embedding: Made, train: Train, ear: Ear, interrupted: Callable[..., None]
) -> None:
    """sentence-transformers' own sampler begins its order anew after a restart."""
    rows = [{"anchor": f"word {n}", "positive": f"term {n * n}", "score": n % 7 / 7} for n in range(20)]
    asked = {"rows": rows, "kind": "scored_pairs", "batch_size": 6, "max_steps": 6}
    train(embedding(name="whole", **asked))
    losses = ear.losses()
    ear.heard.clear()
    spec = embedding(**asked)
    interrupted(spec, after=4)
    before = ear.losses()
    train(spec)
    assert before | ear.losses() == losses


def test_it_goes_on_in_another_folder_with_nothing_but_the_checkpoint(
    causal: Made, train: Train, whole: Any, interrupted: Callable[..., None], tmp_path: Path
) -> None:
    said, _ = whole
    spec = causal(**NOISY)
    interrupted(spec, after=7)
    moved = other(spec, folder=str(tmp_path / "elsewhere"))
    newest = courses.shelf_of(spec).newest()
    assert newest is not None
    shutil.copytree(newest, moved.checkpoints / newest.name)
    shutil.rmtree(spec.folder)
    again = train(moved)
    assert (again["after"], again["step"]) == (said["after"], said["step"])


def test_the_best_weights_come_along(causal: Made, train: Train, interrupted: Callable[..., None]) -> None:
    """Going on with a rate that only does harm, what was best before stays the result."""
    spec = causal(n_epochs=3, evaluations=5)
    interrupted(spec, after=9)
    newest = courses.shelf_of(spec).newest()
    assert newest is not None
    step = json.loads((newest / "best" / "step.json").read_text())
    assert train(other(spec, learning_rate=10.0))["step"] == step


def test_what_a_stranger_says_of_the_best_weights_is_measured_again(
    causal: Made, train: Train, interrupted: Callable[..., None]
) -> None:
    spec = causal(n_epochs=3, evaluations=5)
    interrupted(spec, after=9)
    newest = courses.shelf_of(spec).newest()
    assert newest is not None
    tensors, _ = states.read_tensors(newest / "best" / states.WEIGHTS)
    nothing = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    states.write_tensors(newest / "best" / states.WEIGHTS, nothing)
    _reseal(newest)
    said = train(spec)
    assert said["step"] > 9
    assert said["is_better"]


def _reseal(checkpoint: Path) -> None:
    (checkpoint / states.WHOLE).unlink()
    states._seal(checkpoint)


def test_a_checkpoint_that_was_being_written_is_not_looked_at(
    causal: Made, train: Train, ear: Ear, interrupted: Callable[..., None]
) -> None:
    spec = causal()
    interrupted(spec, after=4)
    newest = courses.shelf_of(spec).newest()
    assert newest is not None
    (newest.parent / "new-6").mkdir()
    shutil.copytree(newest, newest.parent / "checkpoint-8")
    (newest.parent / "checkpoint-8" / states.WHOLE).unlink()
    shutil.copytree(newest, newest.parent / "checkpoint-9")
    with (newest.parent / "checkpoint-9" / states.OPTIMIZER).open("r+b") as file:
        file.truncate(100)
    assert courses.shelf_of(spec).step() == 4
    ear.heard.clear()
    train(spec)
    assert min(ear.losses()) == 5


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (states.WEIGHTS, b""),
        (states.OPTIMIZER, bytes(100)),
        ("rng-0.safetensors", b"{}"),
        (states.STATE, b"[" * 100_000),
        (states.STATE, b'{"global_step": 100}'),
        ("best/step.json", b"[]"),
        ("best/weights.safetensors", b""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_that_is_damaged_is_thrown_away(
    causal: Made, train: Train, ear: Ear, interrupted: Callable[..., None], name: str, content: bytes
) -> None:
    spec = causal(n_epochs=1, evaluations=4)
    interrupted(spec, after=3)
    newest = courses.shelf_of(spec).newest()
    assert newest is not None
    (newest / name).write_bytes(content)
    _reseal(newest)
    ear.heard.clear()
    said = train(spec)
    assert said["is_better"]
    assert "A checkpoint was thrown away" in ear.all("message")[0]["text"]
    assert min(ear.losses()) < 4, "from an older one, or from the start"


class _Bomb:
    """Unpickling this leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self._path,))


def test_a_strangers_checkpoint_runs_no_code(
    causal: Made, train: Train, interrupted: Callable[..., None], tmp_path: Path
) -> None:
    """Every file that transformers, PEFT or sentence-transformers would look at is a pickle that bites."""
    spec = causal()
    interrupted(spec, after=7)
    newest = courses.shelf_of(spec).newest()
    assert newest is not None
    bomb = _Bomb(tmp_path / "bitten")
    pickled = pickle.dumps(bomb)
    names = (
        "training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state.pth",
        "rng_state_0.pth",
        "pytorch_model.bin", "adapter_model.bin", "model.safetensors", "modules.json", "config.json",
        "best/weights.bin",
    )  # fmt: skip
    for name in names:
        (newest / name).write_bytes(pickled)
    torch.save(bomb, newest / "optimizer.pt")
    _reseal(newest)
    assert train(spec)["is_better"]
    # And in place of what is looked at.
    spec = other(spec, folder=str(tmp_path / "other"))
    interrupted(spec, after=7)
    newest = courses.shelf_of(spec).newest()
    assert newest is not None
    for path in [each for each in newest.rglob("*") if each.is_file()]:
        path.write_bytes(pickled)
    _reseal(newest)
    assert train(spec)["is_better"]
    assert not (tmp_path / "bitten").exists()
    pickle.loads(pickled)
    assert (tmp_path / "bitten").exists(), "the bomb is one"


def test_a_checkpoint_holds_no_pickles(causal: Made, interrupted: Callable[..., None]) -> None:
    spec = causal()
    interrupted(spec, after=7)
    newest = courses.shelf_of(spec).newest()
    assert newest is not None
    assert {path.name for path in newest.rglob("*") if path.is_file()} == {
        states.WEIGHTS, states.OPTIMIZER, states.STATE, states.WHOLE, "rng-0.safetensors", "step.json",
    }  # fmt: skip


def test_a_checkpoint_of_another_training_is_thrown_away(
    causal: Made, train: Train, ear: Ear, interrupted: Callable[..., None], tmp_path: Path
) -> None:
    first = causal(lora_rank=8)
    interrupted(first, after=7)
    second = other(causal(lora_rank=4), folder=str(tmp_path / "second"))
    shutil.copytree(first.checkpoints, second.checkpoints)
    ear.heard.clear()
    train(second)
    assert "weights of another model" in ear.all("message")[0]["text"]
    assert min(ear.losses()) == 1


def test_only_the_last_two_are_kept(causal: Made, train: Train, ear: Ear) -> None:
    spec = causal(checkpoints=8)
    train(spec)
    written = [each["folder"] for each in ear.all("checkpoint")]
    assert len(written) > 2
    assert {f"checkpoints/{path.name}" for path in spec.checkpoints.iterdir()} == set(written[-2:])
