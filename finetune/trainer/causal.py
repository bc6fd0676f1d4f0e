"""A LoRA adapter for a causal language model: transformers' Trainer and PEFT."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from finetune.trainer import devices, events, rows
from finetune.trainer.errors import BadData, BadModel
from finetune.trainer.examples import IGNORED, Example, Examples
from finetune.trainer.lessons import Course, Lesson, Metrics
from finetune.trainer.spec import Spec

_CONTEXT = 2048  # where a model does not say


class Set(Dataset[Example]):
    """Examples, as torch's data loaders take them."""

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

    def batches(self, size: int) -> Iterator[list[Example]]:
        return (self._found[start : start + size] for start in range(0, len(self._found), size))


class Collator:
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


class Causal(Course):
    """Measured by the loss on the answers held out (per token), its perplexity, the share of tokens guessed right."""

    main, higher_is_better, kind = "eval_loss", False, "adapter"

    def __init__(self, spec: Spec, *, recompute: bool = False) -> None:
        self._spec, self._device = spec, devices.device(spec.device)
        parameters = spec.parameters
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(spec.base)
            self.learner = self.model = _model(spec)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise BadModel(f"The base cannot be loaded: {devices.first_line(error)}") from error
        self.model.to(self._device)
        context = int(getattr(self.model.config, "max_position_embeddings", 0) or _CONTEXT)
        self._train, self._held_out = self._read(min(parameters["max_length"] or context, context))
        self.tokens, self.count = self._train.tokens, len(self._train)
        pad = self._tokenizer.pad_token_id
        self._collator = Collator(pad if pad is not None else self._tokenizer.eos_token_id or 0)
        self._recompute = recompute or devices.should_recompute(
            self.model.config, rows=parameters["batch_size"], length=self._train.longest
        )
        if self._recompute:
            # The inputs of the first layer that is computed again must ask for gradients.
            self.model.enable_input_require_grads()

    def _read(self, most: int) -> tuple[Set, Set]:
        spec = self._spec
        found = rows.split(
            spec.rows, spec.validation, form=spec.format, held_out=spec.parameters["held_out"], seed=spec.seed
        )
        made = Examples(self._tokenizer, form=spec.format, max_length=most)
        try:
            train, held_out = Set(list(made.of(found.train))), Set(list(made.of(found.held_out)))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BadData(f"A row is not in the form {spec.format}: {devices.first_line(error)}") from error
        if not len(train) or not len(held_out):
            raise BadData(f"There is nothing to be learned within the first {most} tokens of the rows.")
        if 0 < spec.most_tokens < train.tokens:
            raise BadData(
                f"The model's chat template and tokenizer make {train.tokens} tokens of the rows; what was paid for "
                f"is {spec.most_tokens} at most. Use a template that adds less."
            )
        events.say(
            events.DATA, rows=len(train), held_out=len(held_out), tokens=train.tokens, longest=train.longest,
            cut=made.cut, skipped=made.skipped,
        )  # fmt: skip
        return train, held_out

    def trainer(self, arguments: dict[str, Any]) -> Lesson:
        noise = self._spec.parameters["neftune_noise_alpha"] or None
        made = TrainingArguments(
            **arguments, neftune_noise_alpha=noise, label_names=["labels"],
            activation_checkpointing=self._recompute, ddp_find_unused_parameters=False,
        )  # fmt: skip
        return Lesson(
            model=self.model,
            args=made,
            train_dataset=self._train,
            eval_dataset=self._held_out,
            data_collator=self._collator,
        )

    @torch.no_grad()
    def measure(self) -> Metrics:
        """With several processes each measures its share."""
        self.model.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        first, several = self._rank(), devices.process_count()
        for index, batch in enumerate(self._held_out.batches(self._spec.parameters["batch_size"])):
            if index % several == first:
                sums += self._measured(batch)
        if several > 1:
            shared = sums.to(self._device)
            torch.distributed.all_reduce(shared)
            sums = shared.cpu()
        loss_sum, right, count = sums.tolist()
        loss = loss_sum / count
        return {"eval_loss": loss, "perplexity": math.exp(min(loss, 50.0)), "token_accuracy": right / count}

    def _rank(self) -> int:
        return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0

    def _measured(self, batch: list[Example]) -> torch.Tensor:
        """The sum of the losses of all tokens to be learned, how many were guessed right, and how many there are."""
        tensors = {name: each.to(self._device) for name, each in self._collator(batch).items()}
        labels = tensors.pop("labels")
        with devices.autocast(self._spec.device):
            scores = self.model(**tensors).logits[:, :-1]
        wanted = labels[:, 1:]
        found = torch.zeros(3, dtype=torch.float64)
        # Row by row: all scores at once, in full precision, would be most of the memory.
        for line, answer in zip(scores, wanted, strict=True):
            learned = answer != IGNORED
            line, answer = line[learned].float(), answer[learned]
            found[0] += torch.nn.functional.cross_entropy(line, answer, reduction="sum").item()
            found[1] += (line.argmax(-1) == answer).sum().item()
            found[2] += len(answer)
        return found

    def save(self, folder: Path) -> None:
        for config in self.model.peft_config.values():
            # Where it was on this machine is nobody's business.
            config.base_model_name_or_path = self._spec.labels.get("base", "")
            config.inference_mode = True
        self.model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)


def _model(spec: Spec) -> Any:
    base = AutoModelForCausalLM.from_pretrained(
        spec.base, use_safetensors=True, dtype=devices.weights_type(spec.device)
    )
    base.config.use_cache = False
    if spec.adapter:
        if not (Path(spec.adapter) / "adapter_model.safetensors").exists():
            raise BadModel("The adapter has no adapter_model.safetensors.")
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
