"""The margin ranking of the document on task management."""

import math

import pytest
import torch

from finetune.trainer.losses import MarginRankingLoss, margin_ranking

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_it_is_the_mean_of_sigmoids_weighted_by_confidence() -> None:
    found = margin_ranking(
        torch.tensor([0.9, 0.2]), torch.tensor([0.1, 0.4]), margin=0.025, confidence=torch.tensor([1.0, 0.5])
    )
    assert found.item() == pytest.approx((sigmoid(-0.8 + 0.025) + 0.5 * sigmoid(0.2 + 0.025)) / 2)


def test_the_target_turns_it_round() -> None:
    one, other = torch.tensor([0.9]), torch.tensor([0.1])
    turned = margin_ranking(one, other, margin=0.0, target=-1.0)
    assert turned.item() == pytest.approx(margin_ranking(other, one, margin=0.0).item())


def test_a_better_order_and_a_smaller_margin_have_less_loss() -> None:
    high, low = torch.tensor([0.8]), torch.tensor([0.3])
    assert margin_ranking(high, low, margin=0.01) < margin_ranking(low, high, margin=0.01)
    assert margin_ranking(high, low, margin=0.01) < margin_ranking(high, low, margin=0.05)


def loss_of(*vectors: list[float], labels: list[float] | None = None) -> float:
    made = MarginRankingLoss(None, margin=0.1)  # type: ignore[arg-type]  # no texts here
    wanted = torch.tensor(labels) if labels else None
    return float(made.compute_loss_from_embeddings([torch.tensor([each]) for each in vectors], wanted))


def test_clicked_is_compared_with_not_clicked_by_cosine() -> None:
    query, clicked, other = [2.0, 0.0], [3.0, 0.0], [0.0, 1.0]
    assert loss_of(query, clicked, other) == pytest.approx(sigmoid(-1 + 0.1))
    assert loss_of(query, clicked, other, labels=[0.5]) == pytest.approx(0.5 * sigmoid(-1 + 0.1))


def test_clicked_is_compared_with_a_search_that_nobody_liked() -> None:
    query, clicked, contrast, rejected = [1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 5.0]
    assert loss_of(query, clicked, contrast, rejected) == pytest.approx(sigmoid(1 + 0.1))
