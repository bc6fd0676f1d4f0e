"""What a result says of itself: README.md for people, metrics.json for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetune.trainer import devices, rows, states
from finetune.trainer.spec import Spec

_LIBRARY = {"causal": "peft", "embedding": "sentence-transformers"}
_TASK = {"causal": "text-generation", "embedding": "sentence-similarity"}
_USE = {
    "causal": """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = "{base}"  # or a folder that holds it
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), "this folder")
tokenizer = AutoTokenizer.from_pretrained(base)
```""",
    "embedding": """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this folder")
model.similarity(model.encode(["a question"]), model.encode(["an answer"]))
```""",
}


def write(spec: Spec, said: Mapping[str, Any], *, history: Sequence[Mapping[str, Any]]) -> None:
    """Write both into the result's folder. `said` is what `finished` will say, `history` transformers' log."""
    losses = [{"step": each["step"], "loss": each["loss"]} for each in history if "loss" in each]
    lasting = {name: value for name, value in said.items() if name != "folder"}
    states.write_json(
        spec.result / "metrics.json",
        lasting
        | {
            "parameters": spec.parameters,
            "seed": spec.seed,
            "hardware": devices.hardware(spec.device),
            "versions": devices.versions(),
            "losses": losses,
        },
    )
    (spec.result / "README.md").write_text(card(spec, said))


def card(spec: Spec, said: Mapping[str, Any]) -> str:
    """The model card, as the Hugging Face hub reads it too."""
    base, dataset = spec.labels.get("base", "its base"), spec.labels.get("dataset", "rows")
    hardware = devices.hardware(spec.device)
    better = "better than" if said["is_better"] else "**not better** than"
    direction = "higher" if said["higher_is_better"] else "lower"
    metrics = [(name, said["before"].get(name), said["after"][name]) for name in said["after"]]
    library, count = _LIBRARY[spec.method], len(rows.read(spec.rows))
    return "\n\n".join(
        [
            _front(spec, base),
            f"# {spec.title or 'A tuned model'}",
            f"{_what(said['kind'], spec.method, base)}, trained on {dataset} ({spec.format}, {count} rows).",
            f"On rows held out it is {better} its base by `{said['main']}` ({direction} is better), measured at step "
            f"{said['step']} of {said['steps']}; these are the weights that were kept.",
            _table(("", "before", "after"), ((f"`{n}`", _number(b), _number(a)) for n, b, a in metrics)),
            "## How to use it",
            _USE[spec.method].format(base=base),
            "## How it was made",
            _table(
                ("parameter", "value"),
                ((f"`{name}`", _number(value)) for name, value in sorted(spec.parameters.items())),
            ),
            _table(
                ("", ""),
                [
                    ("seed", str(spec.seed)),
                    ("hardware", f"{hardware['name']} ({hardware['device']}, {hardware['count']})"),
                    ("seconds", f"{said['seconds']:.0f}"),
                    ("tokens", f"{said['tokens']:,}"),
                    *devices.versions().items(),
                ],
            ),
            f"Made with {library}. Weights are safetensors; nothing here runs code when it is loaded.",
        ]
    )  # fmt: skip


def _front(spec: Spec, base: str) -> str:
    # A name that YAML would take for something else stays a name in quotes.
    quoted = '"' + base.replace("\\", "\\\\").replace('"', '\\"') + '"'
    tags = ["fine-tuned", *(["lora"] if spec.method == "causal" else [])]
    return "\n".join(
        [
            "---",
            f"base_model: {quoted}",
            f"library_name: {_LIBRARY[spec.method]}",
            f"pipeline_tag: {_TASK[spec.method]}",
            "tags:",
            *(f"- {tag}" for tag in tags),
            "---",
        ]
    )


def _what(kind: str, method: str, base: str) -> str:
    noun = "language model" if method == "causal" else "embedding model"
    return (
        f"A LoRA adapter over the {noun} {base}" if kind == "adapter" else f"A {noun} that comes from {base}"
    )


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    parts = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in parts)


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
