"""What embedding models learn by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CoSENTLoss,
    MultipleNegativesRankingLoss,
    TripletDistanceMetric,
    TripletLoss,
)
from torch.nn.functional import cosine_similarity


def margin_ranking(
    positive: torch.Tensor,
    negative: torch.Tensor,
    *,
    margin: float,
    target: float = 1.0,
    confidence: torch.Tensor | float = 1.0,
) -> torch.Tensor:
    """The probabilistic margin ranking of the document on task management.

    mean(sigmoid(-target * (positive - negative) + margin) * confidence), over similarities of the same shape.
    """
    return (torch.sigmoid(-target * (positive - negative) + margin) * confidence).mean()


class MarginRankingLoss(torch.nn.Module):
    """Of (query, clicked, not clicked), or (query, clicked, other query, its result) by cosine similarity.

    In the second form the other query is one whose results nobody clicked on. Labels, where given, are confidences.
    """

    def __init__(self, model: SentenceTransformer, margin: float) -> None:
        super().__init__()
        self.model, self.margin = model, margin

    def forward(
        self, sentence_features: Iterable[dict[str, torch.Tensor]], labels: torch.Tensor
    ) -> torch.Tensor:
        return self.compute_loss_from_embeddings(
            [self.model(features)["sentence_embedding"] for features in sentence_features], labels
        )

    def compute_loss_from_embeddings(
        self, embeddings: list[torch.Tensor], labels: torch.Tensor | None
    ) -> torch.Tensor:
        query, clicked, *other, rejected = embeddings
        confidence = labels if labels is not None and labels.numel() else 1.0
        return margin_ranking(
            cosine_similarity(query, clicked),
            cosine_similarity(other[0] if other else query, rejected),
            margin=self.margin,
            confidence=confidence,
        )


def of(name: str, model: SentenceTransformer, parameters: dict[str, Any], *, several: bool) -> Any:
    """The loss of that name, for sentence-transformers' trainer.

    `several`: each process has a share of the batch; the negatives of all of them count then, as with one.
    """
    if name == "mnr":
        return MultipleNegativesRankingLoss(model, scale=parameters["scale"], gather_across_devices=several)
    if name == "cosent":
        return CoSENTLoss(model, scale=parameters["scale"])
    if name == "triplet":
        return TripletLoss(
            model, distance_metric=TripletDistanceMetric.COSINE, triplet_margin=parameters["margin"]
        )
    return MarginRankingLoss(model, parameters["margin"])
