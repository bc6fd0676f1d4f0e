"""A LoRA adapter that learns the answers: plain transformers and PEFT."""

import math
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

from benchmarks.training_plain import arguments, read, run, steps_of


def make(spec: dict[str, Any]) -> tuple[Any, Callable[[], Any]]:
    set_seed(spec["seed"])
    tokenizer = AutoTokenizer.from_pretrained(spec["base"])
    model = AutoModelForCausalLM.from_pretrained(spec["base"], dtype=torch.float32)
    asked = spec["parameters"]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=asked["lora_rank"],
        lora_alpha=asked["lora_alpha"],
        lora_dropout=asked["lora_dropout"],
        target_modules="all-linear",
    )

    def tokens(row: dict[str, Any]) -> dict[str, list[int]]:
        *before, _ = row["messages"]
        asked = tokenizer.apply_chat_template(before, add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        ids = tokenizer.encode(whole, add_special_tokens=False)
        skipped = len(tokenizer.encode(asked, add_special_tokens=False))
        return {"input_ids": ids, "labels": [-100] * skipped + ids[skipped:]}

    def collate(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        length = max(len(row["input_ids"]) for row in batch)
        pads = {"input_ids": tokenizer.pad_token_id, "labels": -100}
        made = {
            name: torch.tensor([row[name] + [pad] * (length - len(row[name])) for row in batch])
            for name, pad in pads.items()
        }
        mask = [[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in batch]
        return {**made, "attention_mask": torch.tensor(mask)}

    train = [tokens(row) for row in read(spec["rows"])]
    every = math.ceil(steps_of(spec, len(train)) / spec["parameters"]["evaluations"])
    made = TrainingArguments(
        **arguments(spec, len(train)),
        eval_strategy="steps",
        eval_steps=every,
        remove_unused_columns=False,
        label_names=["labels"],
    )
    trainer = Trainer(
        model=get_peft_model(model, config),
        args=made,
        train_dataset=train,
        eval_dataset=[tokens(row) for row in read(spec["validation"])],
        data_collator=collate,
    )
    return trainer, trainer.evaluate


if __name__ == "__main__":
    run(make)
