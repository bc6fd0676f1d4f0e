"""LoRA adapters over weights that are loaded once: at any moment one of them is in effect, or none."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

_UNKNOWN = "?"


class Adapters:
    """A causal model's weights, with the adapters over them. Everything here runs in the engine's computing thread,
    where nothing else is computed between `use` and the step that it is for; but `forget` may be called anywhere.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._numbers = itertools.count(1)
        self._peft: Any = None
        self._in_effect = ""
        self._gone: list[str] = []

    def add(self, folder: Path) -> str:
        """Load an adapter; by what name it can be used. Raises ValueError for one that does not fit, and others."""
        import peft  # noqa: PLC0415 - slow to import, and only needed where adapters are

        self._clear()
        name = f"guest{next(self._numbers)}"
        config = peft.PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        weights = load_file(folder / "adapter_model.safetensors")
        self._in_effect = _UNKNOWN
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self._peft is None:
                self._peft = peft.PeftModel(self.model, config, adapter_name=name)
            else:
                self._peft.add_adapter(name, config)
            try:
                self._check(name, peft.set_peft_model_state_dict(self._peft, weights, adapter_name=name))
            except BaseException:
                self.forget(name)
                self._clear()
                raise
        self._peft.eval()
        return name

    @staticmethod
    def _check(name: str, loaded: Any) -> None:
        missing = [key for key in loaded.missing_keys if f".{name}." in f"{key}."]
        if loaded.unexpected_keys or missing:
            raise ValueError("The adapter does not fit its base.")

    def use(self, name: str) -> None:
        """Let the next steps be computed with this adapter, or with none where the name is empty."""
        if self._gone:
            self._clear()
        if self._peft is None or name == self._in_effect:
            return
        if name:
            if self._in_effect in ("", _UNKNOWN):
                self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(name)
        else:
            self._peft.base_model.disable_adapter_layers()
        self._in_effect = name

    def forget(self, name: str) -> None:
        """Nobody uses an adapter any more. It goes before the next step."""
        self._gone.append(name)

    def _clear(self) -> None:
        while self._gone:
            self._in_effect = _UNKNOWN
            name = self._gone.pop()
            if list(self._peft.peft_config) == [name]:
                self.model, self._peft, self._in_effect = self._peft.unload(), None, ""
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that another one is in effect then
                self._peft.delete_adapter(name)
