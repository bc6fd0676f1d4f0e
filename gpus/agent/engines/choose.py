"""The engines for what the provider has asked for."""

from __future__ import annotations

import os
from importlib.util import find_spec

from gpus.agent.engines import Engine
from gpus.agent.engines.discovery import Wanted
from gpus.agent.engines.metering import FileTokenizer
from gpus.agent.engines.upstream import Upstream
from gpus.agent.options import Options, WrongOption, split_name


def engines(options: Options) -> list[Engine]:
    """One upstream, or one local engine. Raises WrongOption where what it needs is missing."""
    if options.upstream:
        return [_upstream(options)]
    if any(find_spec(name) is None for name in ("torch", "transformers", "sentence_transformers")):
        raise WrongOption(
            "Name a model server with --upstream URL (vLLM, Ollama, llama.cpp, …), or install what the local "
            "engine needs: pip install -r requirements-worker.txt"
        )
    # Read when torch is loaded. Threads that wait for each other by spinning take the cores from everybody else here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from gpus.agent.engines import local  # noqa: PLC0415 - torch is large, slow to import, and optional

    return [local.Local(options)]


def _upstream(options: Options) -> Upstream:
    tokenizer = None
    if options.tokenizer is not None:
        if find_spec("tokenizers") is None:
            raise WrongOption("--tokenizer needs the package tokenizers: pip install tokenizers")
        tokenizer = FileTokenizer(options.tokenizer)
    names = dict(split_name(model) for model in options.models)
    wanted = Wanted(names=names, kinds=options.kinds, concurrency=options.concurrency)
    return Upstream(
        options.upstream,
        key=options.upstream_key,
        wanted=wanted,
        tokenizer=tokenizer,
        adapters=options.host_adapters,
    )
