"""An embedding model: sentence-transformers' trainer; all weights, or a LoRA adapter that is merged at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.base.training_args import BatchSamplers

from finetune.trainer import devices, events, losses, measures, pairings, rows
from finetune.trainer.errors import BadData, BadModel
from finetune.trainer.lessons import Course, Lesson, Metrics
from finetune.trainer.spec import Spec


class Shuffled(DefaultBatchSampler):
    """Batches in an order that depends on the seed and the epoch only, so that a resumed training finds its place."""

    def __iter__(self) -> Iterator[list[int]]:
        chance = torch.Generator().manual_seed(self.seed + self.epoch)
        rows: Any = self.sampler  # the data set, as sentence-transformers calls it
        order: list[int] = torch.randperm(len(rows), generator=chance).tolist()
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        yield from (batch for batch in batches if len(batch) == self.batch_size or not self.drop_last)


class EmbeddingLesson(Lesson, SentenceTransformerTrainer):
    """sentence-transformers' trainer, which measures and keeps its states as ours do."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """The card is ours, and theirs asks the hub."""


class Embedding(Course):
    """Measured by how well what belongs together is found; see `finetune.trainer.measures`."""

    kind = "full"

    def __init__(self, spec: Spec, *, recompute: bool = False) -> None:
        self._spec, parameters = spec, spec.parameters
        self._recompute = recompute
        self._loss_name = str(parameters["loss"])
        self.model = _model(spec)
        self._adapted = _adapted(self.model, parameters) if parameters["adapter"] else None
        self.learner = self.model
        found = rows.split(
            spec.rows, spec.validation, form=spec.format, held_out=parameters["held_out"], seed=spec.seed
        )
        try:
            self._columns = pairings.columns(found.train, spec.format, self._loss_name, seed=spec.seed)
            self._held_out = pairings.columns(found.held_out, spec.format, self._loss_name, seed=spec.seed)
            self._yardstick = measures.yardstick(spec.format, self._loss_name, found.held_out, found.train)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BadData(f"A row is not in the form {spec.format}: {devices.first_line(error)}") from error
        if not self._columns.count:
            raise BadData(f"There is nothing in these rows that {self._loss_name} can learn from.")
        self.main, self.higher_is_better = self._yardstick.main, True
        self.count, self.tokens = self._columns.count, self._count(found.train)
        several = devices.process_count() > 1
        self._loss = losses.of(self._loss_name, self.model, parameters, several=several)
        self._measuring = losses.of(self._loss_name, self.model, parameters, several=False)

    def _count(self, train: Sequence[rows.Row]) -> int:
        """Tokens of one epoch; says what the data is like."""
        texts = [text for column in self._columns.texts.values() for text in column]
        unique = list(dict.fromkeys(texts))
        encoded = self.model.tokenizer(unique, add_special_tokens=True, truncation=False, verbose=False)[
            "input_ids"
        ]
        most = int(self.model.max_seq_length or 10**9)
        lengths = {text: len(ids) for text, ids in zip(unique, encoded, strict=True)}
        tokens = sum(min(most, lengths[text]) for text in texts)
        events.say(
            events.DATA, rows=self._columns.count, held_out=self._yardstick.count, tokens=tokens,
            longest=min(most, max(lengths.values())), cut=sum(length > most for length in lengths.values()),
            skipped=self._columns.skipped,
        )  # fmt: skip
        return tokens

    def trainer(self, arguments: dict[str, Any]) -> Lesson:
        several = devices.process_count() > 1
        made = SentenceTransformerTrainingArguments(
            **arguments,
            # An equal text elsewhere in the batch would count as wrong.
            batch_sampler=BatchSamplers.NO_DUPLICATES if self._loss_name == "mnr" else Shuffled,
            dataloader_drop_last=several,
            activation_checkpointing=self._recompute,
        )
        return EmbeddingLesson(
            model=self.model,
            args=made,
            train_dataset=self._columns.dataset(),
            # Only so that it agrees to measure; `measure` is what does it.
            eval_dataset=self._held_out.dataset() if self._held_out.count else self._columns.dataset(),
            loss=self._loss,
        )

    @torch.no_grad()
    def measure(self) -> Metrics:
        """With several processes each measures everything."""
        self.model.eval()
        texts = list(dict.fromkeys([*self._yardstick.texts, *self._held_out.all_texts()]))
        with devices.autocast(self._spec.device):
            vectors = self.model.encode(
                texts,
                batch_size=64,
                convert_to_tensor=True,
                normalize_embeddings=True,
                show_progress_bar=False,
            ).float()
        place = {text: index for index, text in enumerate(texts)}
        found = self._yardstick.measure(lambda wanted: vectors[[place[text] for text in wanted]])
        return found | self._held_out_loss(vectors, place)

    def _held_out_loss(self, vectors: torch.Tensor, place: dict[str, int]) -> Metrics:
        size, total = int(self._spec.parameters["batch_size"]), 0.0
        for columns, labels in self._held_out.batches(size):
            embedded = [vectors[[place[text] for text in column]] for column in columns]
            wanted = torch.tensor(labels, device=vectors.device) if labels is not None else torch.empty(0)
            total += float(self._measuring.compute_loss_from_embeddings(embedded, wanted)) * len(columns[0])
        return {"eval_loss": total / self._held_out.count} if self._held_out.count else {}

    def compared(self, before: Metrics, after: Metrics) -> Metrics:
        return after | self._yardstick.shifts(before, after)

    def save(self, folder: Path) -> None:
        if self._adapted is not None:
            # It unwraps the model in its place.
            self._adapted.merge_and_unload()
        self.model.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)


def _model(spec: Spec) -> SentenceTransformer:
    """Raises BadModel."""
    if spec.adapter:
        raise BadModel("An embedding model is trained from all of its weights, not from an adapter.")
    try:
        model = SentenceTransformer(
            spec.base,
            device=str(devices.device(spec.device)),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise BadModel(f"The base cannot be loaded: {devices.first_line(error)}") from error
    most = spec.parameters["max_length"]
    if most:
        model.max_seq_length = min(most, model.max_seq_length or most)
    return model


def _adapted(model: SentenceTransformer, parameters: dict[str, Any]) -> Any:
    """Put LoRA layers into it. A pooler is left out: sentence-transformers does not use it."""
    inner: Any = model.transformers_model
    return get_peft_model(
        inner,
        LoraConfig(
            task_type="FEATURE_EXTRACTION",
            r=parameters["lora_rank"],
            lora_alpha=parameters["lora_alpha"],
            lora_dropout=parameters["lora_dropout"],
            target_modules="all-linear",
            exclude_modules=r".*pooler.*",
        ),
    )
