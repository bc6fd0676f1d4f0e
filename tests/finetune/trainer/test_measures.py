"""What an embedding model is worth."""

import math
from collections.abc import Sequence

import pytest
import torch

from finetune.trainer import measures
from finetune.trainer.measures import ordered, yardstick

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def angles(**degrees: float) -> measures.Vectors:
    """Each text is a direction."""

    def vectors(texts: Sequence[str]) -> torch.Tensor:
        rad = [math.radians(degrees[text]) for text in texts]
        return torch.tensor([[math.cos(each), math.sin(each)] for each in rad])

    return vectors


def test_ranks_of_one_search() -> None:
    found = ordered(torch.tensor([0.9, 0.1, 0.5, 0.3]), [2])
    assert found == {"recall@1": 0.0, "mrr": 0.5, "ndcg@10": pytest.approx(1 / math.log2(3))}
    assert ordered(torch.tensor([0.9, 0.1, 0.5, 0.3]), [0]) == {"recall@1": 1.0, "mrr": 1.0, "ndcg@10": 1.0}


def test_several_right_ones_should_all_come_first() -> None:
    found = ordered(torch.tensor([0.9, 0.8, 0.7, 0.6]), [0, 3])
    ideal = 1 + 1 / math.log2(3)
    assert found["ndcg@10"] == pytest.approx((1 + 1 / math.log2(5)) / ideal)


def test_what_is_beyond_the_tenth_place_counts_for_the_mrr_only() -> None:
    found = ordered(torch.arange(20, 0, -1.0), [14])
    assert (found["mrr"], found["ndcg@10"]) == (pytest.approx(1 / 15), 0.0)


def test_equals_are_not_to_a_models_advantage() -> None:
    assert ordered(torch.ones(4), [0])["mrr"] == 0.25


def test_pairs_search_among_all_answers() -> None:
    rows = [{"anchor": "a", "positive": "A"}, {"anchor": "b", "positive": "B"}]
    stick = yardstick("pairs", "mnr", rows, [{"anchor": "c", "positive": "C"}])
    assert stick.main == "mrr"
    assert stick.measure(angles(a=0, A=10, b=50, B=85, C=60)) == {
        "recall@1": 0.5, "mrr": 0.75, "ndcg@10": pytest.approx((1 + 1 / math.log2(3)) / 2),
    }  # fmt: skip


def test_another_answer_to_the_same_question_is_right_too() -> None:
    rows = [{"anchor": "a", "positive": "A"}]
    stick = yardstick(
        "pairs", "mnr", rows, [{"anchor": "a", "positive": "B"}, {"anchor": "c", "positive": "C"}]
    )
    assert stick.measure(angles(a=0, A=30, B=0, C=10))["recall@1"] == 1.0


def test_negatives_of_triplets_are_in_the_way() -> None:
    stick = yardstick("triplets", "triplet", [{"anchor": "a", "positive": "A", "negative": "N"}], [])
    assert stick.measure(angles(a=0, A=20, N=10))["mrr"] == 0.5


def test_the_corpus_is_filled_up_from_the_rest_but_not_without_end() -> None:
    train = [{"anchor": f"q{n}", "positive": f"t{n}"} for n in range(2 * measures.CORPUS)]
    stick = yardstick("pairs", "mnr", [{"anchor": "a", "positive": "A"}], train)
    assert len(stick.texts) == 1 + measures.CORPUS


def test_scores_are_compared_by_rank() -> None:
    rows = [{"anchor": "a", "positive": p, "score": s} for p, s in (("A", 1.0), ("B", 0.5), ("C", 0.1))]
    stick = yardstick("pairs", "cosent", rows, [])
    assert stick.main == "spearman"
    assert stick.measure(angles(a=0, A=5, B=30, C=80)) == {"spearman": pytest.approx(1.0)}
    assert stick.measure(angles(a=0, A=80, B=30, C=5)) == {"spearman": pytest.approx(-1.0)}
    assert stick.measure(angles(a=0, A=5, B=5, C=5)) == {"spearman": 0.0}


def search(query: str, clicked: Sequence[str], rest: Sequence[str]) -> dict[str, object]:
    results = [{"id": text, "text": text} for text in (*rest, *clicked)]
    return {"query": query, "results": results, "clicked": list(clicked)}


def test_results_of_a_search_are_ordered_anew() -> None:
    stick = yardstick("clicks", "margin_ranking", [search("q", ["A"], ["B", "C"])], [])
    assert stick.main == "ndcg@10"
    assert stick.measure(angles(q=0, A=20, B=10, C=30))["mrr"] == 0.5
    assert stick.measure(angles(q=0, A=20, B=40, C=30))["mrr"] == 1.0


def test_the_documents_shift_is_how_much_nearer_clicked_results_have_come() -> None:
    stick = yardstick("clicks", "margin_ranking", [search("q", ["A"], ["B"]), search("r", [], ["C"])], [])
    before = stick.measure(angles(q=0, A=60, B=10, r=0, C=0))
    after = stick.measure(angles(q=0, A=0, B=10, r=0, C=90))
    assert stick.shifts(before, after) == {
        "not_irrelevant_dist_shift": pytest.approx(0.5, abs=1e-6),
        "irrelevant_dist_shift": pytest.approx(1.0, abs=1e-6),
    }
