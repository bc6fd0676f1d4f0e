"""A LoRA adapter for a causal language model: transformers' Trainer and PEFT."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from finetune.trainer import events, rows
from finetune.trainer.rows import IGNORED, Example, Tokens
from finetune.trainer.spec import Spec
from finetune.trainer.telling import Telling

MAIN = "eval_loss"


class _Examples(Dataset[Example]):
    def __init__(self, found: list[Example]) -> None:
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: int) -> Example:
        return self._found[index]

    @property
    def tokens(self) -> int:
        return sum(len(each.ids) for each in self._found)

    @property
    def longest(self) -> int:
        return max(len(each.ids) for each in self._found)


class _Collator:
    """Examples to tensors, padded on the right."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, batch: list[Example]) -> dict[str, torch.Tensor]:
        length = max(len(each.ids) for each in batch)
        ids = [each.ids + [self._pad] * (length - len(each.ids)) for each in batch]
        labels = [each.labels + [IGNORED] * (length - len(each.labels)) for each in batch]
        mask = [[1] * len(each.ids) + [0] * (length - len(each.ids)) for each in batch]
        return {
            "input_ids": torch.tensor(ids),
            "labels": torch.tensor(labels),
            "attention_mask": torch.tensor(mask),
        }


def train(spec: Spec, *, resume: Path | None) -> dict[str, Any]:
    """Train; what `finished` says. The adapter is in the result's folder."""
    began, parameters = time.monotonic(), spec.parameters
    tokenizer = AutoTokenizer.from_pretrained(spec.base)
    model = _model(spec)
    train_set, held_out = _data(spec, tokenizer, model)
    arguments = _arguments(spec, len(train_set), resume)
    telling = Telling(spec, train_set.tokens)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=train_set,
        eval_dataset=held_out,
        data_collator=_Collator(tokenizer.pad_token_id or tokenizer.eos_token_id or 0),
        callbacks=[telling],
    )
    before = telling.measured_before(resume) or _measured(trainer)
    telling.note_before(before)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    telling.raise_if_stopped()
    after = _measured(trainer)
    events.say(events.EVALUATED, when="after", step=trainer.state.global_step, metrics=after)
    model.save_pretrained(spec.result, safe_serialization=True)
    return {
        "folder": spec.result.name, "main": MAIN, "before": before, "after": after, "kind": "adapter",
        "is_better": after[MAIN] < before[MAIN], "tokens": int(train_set.tokens * parameters["n_epochs"]),
        "seconds": time.monotonic() - began,
    }  # fmt: skip


def _model(spec: Spec) -> Any:
    base = AutoModelForCausalLM.from_pretrained(spec.base, use_safetensors=True, dtype="auto")
    if spec.adapter:
        return PeftModel.from_pretrained(base, spec.adapter, is_trainable=True)
    parameters = spec.parameters
    return get_peft_model(
        base,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=parameters["lora_rank"],
            lora_alpha=parameters["lora_alpha"],
            lora_dropout=parameters["lora_dropout"],
            target_modules="all-linear",
        ),
    )


def _data(spec: Spec, tokenizer: Any, model: Any) -> tuple[_Examples, _Examples]:
    context = int(getattr(model.config, "max_position_embeddings", 0) or 2048)
    most = min(spec.parameters["max_length"] or context, context)
    made = Tokens(tokenizer, form=spec.format, max_length=most)
    found = rows.split(spec.rows, spec.validation, held_out=spec.parameters["held_out"], seed=spec.seed)
    train_set, held_out = (_Examples(list(made.examples(each))) for each in (found.train, found.held_out))
    events.say(
        events.DATA, rows=len(train_set), held_out=len(held_out), tokens=train_set.tokens, longest=train_set.longest,
        cut=made.cut,
    )  # fmt: skip
    return train_set, held_out


def _arguments(spec: Spec, count: int, resume: Path | None) -> TrainingArguments:
    parameters = spec.parameters
    per_epoch = math.ceil(count / (parameters["batch_size"] * parameters["gradient_accumulation"]))
    steps = (
        parameters["max_steps"]
        if parameters["max_steps"] > 0
        else math.ceil(per_epoch * parameters["n_epochs"])
    )
    evaluations = parameters["evaluations"]
    return TrainingArguments(
        output_dir=str(spec.checkpoints),
        num_train_epochs=parameters["n_epochs"],
        max_steps=parameters["max_steps"],
        per_device_train_batch_size=parameters["batch_size"],
        per_device_eval_batch_size=parameters["batch_size"],
        gradient_accumulation_steps=parameters["gradient_accumulation"],
        learning_rate=parameters["learning_rate"],
        lr_scheduler_type=parameters["schedule"],
        warmup_steps=round(steps * parameters["warmup_ratio"]),
        weight_decay=parameters["weight_decay"],
        neftune_noise_alpha=parameters["neftune_noise_alpha"] or None,
        logging_steps=max(1, steps // 200),
        eval_strategy="steps" if evaluations else "no",
        eval_steps=max(1, steps // max(1, evaluations)),
        save_strategy="steps",
        save_steps=max(1, steps // parameters["checkpoints"]),
        save_total_limit=1,
        seed=spec.seed,
        data_seed=spec.seed,
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
        use_cpu=spec.device == "cpu",
        remove_unused_columns=False,
        label_names=["labels"],
    )


def _measured(trainer: Trainer) -> dict[str, float]:
    found = trainer.evaluate()
    loss = float(found["eval_loss"])
    return {"eval_loss": loss, "perplexity": math.exp(min(loss, 50.0))}
