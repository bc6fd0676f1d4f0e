"""Embedding models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.trainer import pairings
from finetune.trainer.errors import BadData, BadModel
from finetune.trainer.spec import Spec
from tests.finetune.trainer.conftest import Ear, other, pairs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

Made = Callable[..., Spec]
Train = Callable[[Spec], dict[str, Any]]


def triplets() -> list[dict[str, Any]]:
    found = pairs()
    return [
        row | {"negative": found[(index * 7 + 3) % len(found)]["positive"]} for index, row in enumerate(found)
    ]


def clicks() -> list[dict[str, Any]]:
    found = []
    for index, row in enumerate(triplets()):
        texts = {"a": row["positive"], "b": row["negative"], "c": "something else"}
        results = [{"id": key, "text": text} for key, text in texts.items()]
        found.append({"query": row["anchor"], "results": results, "clicked": ["a"] if index % 8 else []})
    return found


def scored() -> list[dict[str, Any]]:
    near = [row | {"score": 1.0} for row in pairs()[::2]]
    return near + [
        {"anchor": row["anchor"], "positive": row["negative"], "score": 0.1} for row in triplets()[1::2]
    ]


@pytest.mark.parametrize(
    ("rows", "form", "kind", "loss", "main"),
    [
        (pairs, "pairs", "pairs", "mnr", "mrr"),
        (scored, "pairs", "scored_pairs", "cosent", "spearman"),
        (triplets, "triplets", "triplets", "triplet", "mrr"),
        (clicks, "clicks", "clicks", "margin_ranking", "ndcg@10"),
    ],
)
def test_each_loss_lowers_itself_on_rows_held_out(
    embedding: Made, train: Train, rows: Any, form: str, kind: str, loss: str, main: str
) -> None:
    said = train(embedding(rows=rows(), form=form, kind=kind, loss=loss, learning_rate=1e-4))
    assert (said["main"], said["kind"], said["higher_is_better"]) == (main, "full", True)
    assert said["after"]["eval_loss"] < said["before"]["eval_loss"]
    if form == "clicks":
        assert "not_irrelevant_dist_shift" in said["after"]


def test_sentence_transformers_loads_the_result_and_measures_the_same(
    embedding: Made, train: Train, ear: Ear
) -> None:
    from sentence_transformers import SentenceTransformer

    from finetune.trainer import measures
    from finetune.trainer import rows as split

    spec = embedding()
    said = train(spec)
    model = SentenceTransformer(str(spec.result), device="cpu")
    found = split.split(spec.rows, "", form="pairs", held_out=0.1, seed=spec.seed)
    stick = measures.yardstick("pairs", "mnr", found.held_out, found.train)
    again = stick.measure(
        lambda texts: model.encode(texts, convert_to_tensor=True, normalize_embeddings=True)
    )
    assert again == pytest.approx({name: said["after"][name] for name in again}, abs=1e-5)
    names = {path.name for path in spec.result.iterdir()}
    assert {
        "README.md",
        "metrics.json",
        "model.safetensors",
        "modules.json",
        "config.json",
        "tokenizer.json",
    } <= names
    assert not [path for path in spec.result.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".py")]
    for path in spec.result.rglob("*.*"):
        assert str(Path(spec.folder).parent).encode() not in path.read_bytes(), path.name


def test_an_adapter_is_merged_into_all_weights(embedding: Made, train: Train) -> None:
    from sentence_transformers import SentenceTransformer

    spec = embedding(adapter=True, learning_rate=2e-3, max_steps=3)
    said = train(spec)
    assert said["kind"] == "full"
    assert said["after"]["eval_loss"] < said["before"]["eval_loss"]
    base, tuned = (SentenceTransformer(str(each), device="cpu") for each in (spec.base, spec.result))
    assert base.state_dict().keys() == tuned.state_dict().keys()
    changed = [n for n, t in tuned.state_dict().items() if not torch.equal(t, base.state_dict()[n])]
    assert changed
    assert not [name for name in changed if "attention" not in name and "dense" not in name]


def test_the_same_seed_has_the_same_losses(embedding: Made, train: Train, ear: Ear) -> None:
    train(embedding(name="one"))
    losses = ear.losses()
    train(embedding(name="two"))
    assert ear.losses() == losses


def test_the_data_is_described(embedding: Made, train: Train, ear: Ear) -> None:
    train(embedding(max_steps=1, max_length=8))
    (data,) = ear.all("data")
    assert (data["rows"], data["held_out"], data["longest"]) == (36, 4, 8)
    assert data["cut"] > 0
    assert 0 < data["tokens"] <= 36 * 2 * 8


def test_the_card_says_how_to_use_it(embedding: Made, train: Train) -> None:
    spec = embedding(max_steps=1)
    train(spec)
    card = (spec.result / "README.md").read_text()
    for word in ("library_name: sentence-transformers", "minilm", "shelves", "`mrr`", "SentenceTransformer("):
        assert word in card
    assert json.loads((spec.result / "metrics.json").read_text())["main"] == "mrr"


def test_pairs_without_a_score_are_counted_where_scores_are_learned(
    embedding: Made, train: Train, ear: Ear
) -> None:
    train(embedding(rows=[*scored(), *pairs()[:5]], kind="scored_pairs", max_steps=1))
    assert 0 < ear.all("data")[0]["skipped"] <= 5


def test_searches_become_comparisons() -> None:
    found = pairings.columns(clicks()[1:3], "clicks", "triplet", seed=1)
    assert list(found.texts) == ["query", "clicked", "rejected"]
    assert found.count == 4
    assert {*found.texts["rejected"]} == {
        clicks()[1]["results"][1]["text"],
        clicks()[2]["results"][1]["text"],
        "something else",
    }


def test_searches_that_nobody_liked_are_compared_with_too() -> None:
    found = pairings.columns(clicks()[:2], "clicks", "margin_ranking", seed=1)
    assert list(found.texts) == ["query", "clicked", "contrast", "rejected"]
    rows = list(zip(*found.texts.values(), strict=True))
    ignored, liked = clicks()[:2]
    assert rows[-1] == (
        liked["query"],
        liked["results"][0]["text"],
        ignored["query"],
        ignored["results"][1 - 1]["text"],
    )
    assert found.skipped == 0
    assert pairings.columns(clicks()[:2], "clicks", "mnr", seed=1).skipped == 1


def test_nothing_to_compare_is_a_clear_error(embedding: Made, train: Train) -> None:
    rows = [{"query": "q", "results": [{"id": "a", "text": "A"}], "clicked": ["a"]}] * 4
    with pytest.raises(BadData, match="margin_ranking can learn from"):
        train(embedding(rows=rows, form="clicks"))


def test_rows_of_another_form_are_a_clear_error(embedding: Made, train: Train) -> None:
    with pytest.raises(BadData, match="not in the form triplets"):
        train(embedding(form="triplets"))


def test_adapters_are_not_gone_on_from(embedding: Made, train: Train, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="not from an adapter"):
        train(other(embedding(), adapter=str(tmp_path)))


def test_a_base_that_is_none_is_a_clear_error(embedding: Made, train: Train, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="cannot be loaded"):
        train(other(embedding(), base=str(tmp_path)))
