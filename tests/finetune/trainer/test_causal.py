"""LoRA adapters for language models."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.trainer.errors import BadData, BadModel, NotFinite
from finetune.trainer.spec import Spec
from tests.finetune.trainer.conftest import Ear, chats, other, written

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

Made = Callable[..., Spec]
Train = Callable[[Spec], dict[str, Any]]


def test_it_learns_and_says_by_how_much(causal: Made, train: Train, ear: Ear) -> None:
    said = train(causal())
    assert said["is_better"]
    assert (said["main"], said["higher_is_better"], said["kind"]) == ("eval_loss", False, "adapter")
    assert said["after"]["eval_loss"] < said["before"]["eval_loss"]
    assert said["after"]["token_accuracy"] > said["before"]["token_accuracy"]
    assert said["after"]["perplexity"] == pytest.approx(math.exp(said["after"]["eval_loss"]))
    (data,) = ear.all("data")
    assert (data["rows"], data["held_out"], data["cut"], data["skipped"]) == (36, 4, 0, 0)
    assert said["tokens"] == 2 * data["tokens"]
    assert [each["when"] for each in ear.all("evaluated")] == ["before", "epoch", "epoch", "after"]
    assert list(ear.losses()) == list(range(1, said["steps"] + 1))


def test_the_same_seed_has_the_same_losses(causal: Made, train: Train, ear: Ear) -> None:
    first = train(causal(name="one", lora_dropout=0.1, neftune_noise_alpha=5))
    losses = ear.losses()
    again = train(causal(name="two", lora_dropout=0.1, neftune_noise_alpha=5))
    assert ear.losses() == losses
    assert again["after"] == first["after"]


def test_noise_and_another_seed_change_the_losses(causal: Made, train: Train, ear: Ear) -> None:
    train(causal(name="one", n_epochs=0.5))
    plain = ear.losses()
    train(causal(name="two", n_epochs=0.5, neftune_noise_alpha=10))
    noisy = ear.losses()
    train(other(causal(name="three", n_epochs=0.5), seed=8))
    assert len({json.dumps(each) for each in (plain, noisy, ear.losses())}) == 3


def test_half_a_batch_twice_is_a_batch(causal: Made, train: Train, ear: Ear) -> None:
    whole = train(causal(name="one", n_epochs=1))
    losses = ear.losses()
    halves = train(causal(name="two", n_epochs=1, batch_size=4, gradient_accumulation=2))
    assert halves["steps"] == whole["steps"]
    assert ear.losses() == pytest.approx(losses, abs=1e-4)
    assert halves["after"]["eval_loss"] == pytest.approx(whole["after"]["eval_loss"], abs=1e-4)


def test_it_stops_after_as_many_steps_as_it_may_make(causal: Made, train: Train, ear: Ear) -> None:
    said = train(causal(max_steps=3))
    assert said["steps"] == 3
    assert said["tokens"] == pytest.approx(ear.all("data")[0]["tokens"] * 3 / 5, rel=0.01)


def test_a_limit_of_steps_is_no_way_to_more_epochs(causal: Made, train: Train) -> None:
    assert train(causal(n_epochs=1, max_steps=50))["steps"] == 5


def test_the_best_weights_are_kept_and_not_the_last(causal: Made, train: Train, ear: Ear) -> None:
    """Trained on something else than it is measured on, it becomes better at first, and worse in the end."""
    spec = causal(
        rows=chats()[:3], batch_size=3, n_epochs=40, evaluations=10, schedule="constant", learning_rate=2e-2
    )
    strangers = [
        {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "It is nice."}]}
    ]
    path = written(Path(spec.folder).with_name("strangers.jsonl"), strangers)
    said = train(other(spec, validation=str(path)))
    curve = {
        each["step"]: each["metrics"]["eval_loss"] for each in ear.all("evaluated") if each["when"] == "epoch"
    }
    assert said["step"] == min(curve, key=lambda step: curve[step]) < said["steps"]
    assert said["after"]["eval_loss"] == min(curve.values())
    assert _loss_of(spec, path) == pytest.approx(said["after"]["eval_loss"], abs=1e-4)


def test_a_result_that_is_no_better_says_so(causal: Made, train: Train) -> None:
    first = causal(name="one")
    train(first)
    rough = causal(name="two", learning_rate=1.0, max_steps=2, warmup_ratio=0, evaluations=1)
    said = train(other(rough, adapter=str(first.result)))
    assert said["after"]["eval_loss"] > said["before"]["eval_loss"]
    assert not said["is_better"]
    assert "**not better**" in (rough.result / "README.md").read_text()


def test_plain_peft_loads_the_result_and_measures_the_same(causal: Made, train: Train) -> None:
    spec = causal()
    assert train(spec)["after"]["eval_loss"] == pytest.approx(_loss_of(spec, _held_out(spec)), abs=1e-4)


def _held_out(spec: Spec) -> Path:
    from finetune.trainer import rows

    found = rows.split(spec.rows, "", form=spec.format, held_out=0.1, seed=spec.seed)
    return written(Path(spec.folder).with_name("held_out.jsonl"), found.held_out)


def _loss_of(spec: Spec, rows: Path) -> float:
    """What the adapter of a result is worth, computed by other means."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(spec.base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(spec.base), spec.result).eval()
    total = count = 0.0
    for row in map(json.loads, rows.read_text().splitlines()):
        asked, answer = row["messages"][0]["content"], row["messages"][1]["content"]
        before = words.encode(f"<|user|>{asked}<|end|><|assistant|>", add_special_tokens=False)
        after = words.encode(f"{answer}<|end|>", add_special_tokens=False)
        labels = torch.tensor([[-100] * len(before) + after])
        with torch.no_grad():
            total += len(after) * model(input_ids=torch.tensor([before + after]), labels=labels).loss.item()
        count += len(after)
    return total / count


def test_the_result_is_safetensors_and_says_what_it_is(causal: Made, train: Train) -> None:
    spec = causal()
    said = train(spec)
    assert {path.name for path in spec.result.iterdir()} == {
        "README.md", "metrics.json", "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    metrics = json.loads((spec.result / "metrics.json").read_text())
    assert (metrics["before"], metrics["after"]) == (said["before"], said["after"])
    assert metrics["seed"] == 7
    assert metrics["losses"][-1]["step"] == said["steps"]
    card = (spec.result / "README.md").read_text()
    assert 'base_model: "tiny"' in card
    for word in ("colours", "40 rows", "learning_rate", "token_accuracy", "transformers", "seed", "CPU"):
        assert word in card
    for path in spec.result.iterdir():
        assert str(Path(spec.folder).parent).encode() not in path.read_bytes(), path.name


def test_an_adapter_is_trained_further(causal: Made, train: Train) -> None:
    first = causal(name="one")
    one = train(first)
    two = train(other(causal(name="two", lora_rank=32), adapter=str(first.result)))
    assert two["before"]["eval_loss"] == pytest.approx(one["after"]["eval_loss"], abs=1e-5)
    assert two["after"]["eval_loss"] < one["after"]["eval_loss"]
    config = json.loads((Path(first.folder).with_name("two") / "result" / "adapter_config.json").read_text())
    assert config["r"] == 4, "the adapter's own rank"


def test_an_adapter_that_is_a_pickle_is_not_loaded(causal: Made, train: Train, tmp_path: Path) -> None:
    first = causal(name="one", max_steps=1)
    train(first)
    (first.result / "adapter_model.safetensors").rename(first.result / "adapter_model.bin")
    with pytest.raises(BadModel, match=r"no adapter_model\.safetensors"):
        train(other(first, adapter=str(first.result), folder=str(tmp_path / "two")))


def test_computing_twice_what_does_not_fit_changes_nothing(
    causal: Made, train: Train, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.trainer import devices

    plain = train(causal(name="one", n_epochs=1))
    losses = ear.losses()
    monkeypatch.setattr(devices, "should_recompute", lambda *_args, **_kwargs: True)
    assert train(causal(name="two", n_epochs=1))["after"] == pytest.approx(plain["after"], abs=1e-5)
    assert ear.losses() == pytest.approx(losses, abs=1e-5)


@pytest.mark.parametrize(
    ("form", "row"),
    [
        ("completion", {"prompt": "The {0} {1} is", "completion": " {0}."}),
        ("instruction", {"instruction": "Name the colour.", "input": "{0} {1}", "output": "{0}"}),
        ("text", {"text": "The {0} {1} is {0}."}),
    ],
)
def test_other_forms_are_learned_too(causal: Made, train: Train, form: str, row: dict[str, str]) -> None:
    rows = [
        {name: text.format(c, a) for name, text in row.items()} for c in ("red", "blue") for a in "abcdefghij"
    ]
    assert train(causal(rows=rows, form=form, n_epochs=3))["is_better"]


def test_rows_with_nothing_to_learn_are_a_clear_error(causal: Made, train: Train) -> None:
    rows = [{"messages": [{"role": "user", "content": "x" * 300}, {"role": "assistant", "content": "y"}]}] * 3
    with pytest.raises(BadData, match="nothing to be learned within the first 256 tokens"):
        train(causal(rows=rows))


def test_a_template_that_makes_much_more_of_the_rows_than_was_paid_for_is_refused(
    causal: Made, train: Train
) -> None:
    with pytest.raises(BadData, match="what was paid for is 50 at most"):
        train(other(causal(), most_tokens=50))


def test_rows_of_another_form_are_a_clear_error(causal: Made, train: Train) -> None:
    with pytest.raises(BadData, match="not in the form text"):
        train(causal(form="text"))


def test_a_base_that_is_none_is_a_clear_error(causal: Made, train: Train, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="cannot be loaded"):
        train(causal(base=tmp_path))


def test_a_loss_that_is_no_number_ends_the_training(
    causal: Made, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.trainer.lessons import Lesson

    compute = Lesson.compute_loss
    monkeypatch.setattr(
        Lesson, "compute_loss", lambda *args, **kwargs: compute(*args, **kwargs) * float("nan")
    )
    with pytest.raises(NotFinite, match="At step 1 the loss is no number any more; a lower learning rate"):
        train(causal())


def test_a_base_that_computes_no_numbers_is_a_clear_error(causal: Made, train: Train, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = causal(base=tmp_path / "broken")
    model = AutoModelForCausalLM.from_pretrained(causal().base)
    model.model.norm.weight.data.fill_(float("nan"))
    model.save_pretrained(spec.base)
    AutoTokenizer.from_pretrained(causal().base).save_pretrained(spec.base)
    with pytest.raises(NotFinite, match="At step 0"):
        train(spec)
