"""What the provider says on the command line; each option can come from the environment as well."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from yarl import URL

from gpus.protocol import VERSION

PREFIX = "AGENT_"
KINDS = ("chat", "completion", "embedding")
# Not a float: prices are exact.
_AMOUNT = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?", re.ASCII)


class WrongOption(Exception):
    """Something on the command line or in the environment cannot be."""


@dataclass(frozen=True, slots=True)
class Options:
    marketplace: str
    state_dir: Path
    models_dir: Path
    token: str = field(default="", repr=False)
    email: str = ""
    password: str = field(default="", repr=False)
    name: str = ""
    upstream: str = ""
    upstream_key: str = field(default="", repr=False)
    models: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    tokenizer: Path | None = None
    push_url: str = ""
    push_host: str = ""
    push_port: int = 0
    region: str = ""
    # Decimal tokens, as the registration takes them: of its models, and per GPU-hour.
    prices: dict[str, str] = field(default_factory=dict)
    hour_price: str = ""
    # Training for others: whether, how many at once, and per million tokens.
    train: bool = False
    train_slots: int = 1
    training_price: str = ""
    # Serving models that the marketplace keeps: whether, how many, with how much room for their files.
    hosting: bool = True
    host_most: int = 4
    host_cache_gib: float = 50.0
    # A folder that the upstream server reads adapters from.
    host_adapters: Path | None = None
    concurrency: int | None = None
    device: str = ""
    drain_timeout_s: float = 300.0
    stay_when_drained: bool = False
    leave: bool = False
    log_level: str = "INFO"

    @property
    def delivery(self) -> str:
        return "push" if self.push_url else "pull"

    @property
    def has_account(self) -> bool:
        return bool(self.token or (self.email and self.password))


def parse(arguments: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> Options:
    """Options from the command line, else the environment. Raises WrongOption with a line for people."""
    given = _parser(environ).parse_args(arguments)
    _check(given)
    home = environ.get("MARKETPLACE_HOME")
    state_dir = Path(given.state_dir or (f"{home}/agent" if home else "~/.local/share/gpu-marketplace-agent"))
    state_dir = state_dir.expanduser()
    host, port = _listen(given.push_listen, given.push_url)
    return Options(
        marketplace=given.marketplace.rstrip("/"),
        state_dir=state_dir,
        models_dir=Path(home) / "models" if home else state_dir / "models",
        token=given.token,
        email=given.email,
        password=given.password,
        name=given.name,
        upstream=given.upstream,
        upstream_key=given.upstream_key,
        models=tuple(given.model or _split(environ.get(f"{PREFIX}MODEL", ""))),
        kinds=_kinds(given.kinds),
        tokenizer=_existing(given.tokenizer),
        push_url=given.push_url.rstrip("/"),
        push_host=host,
        push_port=port,
        region=given.region,
        prices=_prices(given),
        hour_price=_price("--price-hour", given.price_hour),
        train=given.train,
        train_slots=_number("--train-slots", given.train_slots) or 1,
        training_price=_price("--price-training", given.price_training),
        hosting=not given.no_hosting,
        host_most=_number("--host-most", given.host_most) or 1,
        host_cache_gib=_seconds("--host-cache", given.host_cache, what="gibibytes"),
        host_adapters=Path(given.host_adapters).expanduser().resolve() if given.host_adapters else None,
        concurrency=_number("--concurrency", given.concurrency),
        device=given.device,
        drain_timeout_s=_seconds("--drain-timeout", given.drain_timeout),
        stay_when_drained=given.when_drained == "stay",
        leave=given.leave,
        log_level=given.log_level.upper(),
    )


_TEXTS = {
    "marketplace": ("URL", "http://localhost:8000", "the marketplace to join"),
    "token": ("TOKEN", "", "your account's token or API key, for the first start (rather by AGENT_TOKEN)"),
    "email": ("EMAIL", "", "instead of a token: your account's e-mail address"),
    "password": ("PASSWORD", "", "… and password (rather by AGENT_PASSWORD)"),
    "name": ("NAME", "", "what the node is called"),
    "upstream": ("URL", "", "an OpenAI-compatible server that answers: vLLM, Ollama, llama.cpp, TGI, …"),
    "upstream-key": ("KEY", "", "the API key of that server"),
    "kinds": ("LIST", "", f"what the models are for, of {', '.join(KINDS)}; guessed by default"),
    "tokenizer": ("PATH", "", "a tokenizer.json to count tokens with, where the server does not report them"),
    "push-url": ("URL", "", "let the marketplace call this URL, instead of connecting to it"),
    "push-listen": ("HOST:PORT", "", "… and listen here for it (default 0.0.0.0 and the URL's port)"),
    "region": ("REGION", "", "where the machine is, for consumers who care"),
    "price-input": (
        "PRICE",
        "",
        "what a million prompt tokens cost, for all models; the marketplace's by default",
    ),
    "price-output": ("PRICE", "", "what a million completion tokens cost"),
    "price-request": ("PRICE", "", "what each request costs besides"),
    "price-hour": ("PRICE", "", "what an hour of each GPU costs whoever wants the node alone"),
    "price-training": (
        "PRICE",
        "",
        "what training on a million tokens costs; by default what the hours cost",
    ),
    "train-slots": ("N", "1", "trainings at once, with --train"),
    "host-most": ("N", "4", "how many of the marketplace's models to serve at once, when it asks to"),
    "host-cache": ("GIB", "50", "how much room their files may take"),
    "host-adapters": (
        "DIR",
        "",
        "with --upstream: a folder that a vLLM server reads LoRA adapters from, to host them there "
        "(it needs --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1)",
    ),
    "concurrency": ("N", "", "requests answered at once, per model"),
    "state-dir": ("DIR", "", "what the agent remembers (default ~/.local/share/gpu-marketplace-agent)"),
    "device": (
        "DEVICE",
        "",
        "where the local engine computes: cpu, cuda, cuda:1, mps; the best one by default",
    ),
    "drain-timeout": ("SECONDS", "300", "how long running requests may take to finish on SIGTERM"),
    "log-level": ("LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR"),
}


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gpus.agent",
        description="Offer this machine's models to a GPU marketplace.",
        epilog=f"Each option can be given in the environment: --push-url is {PREFIX}PUSH_URL. "
        "Without --upstream and --model it serves two small models of its own.",
        allow_abbrev=False,
    )
    for name, (metavar, default, text) in _TEXTS.items():
        found = environ.get(PREFIX + name.upper().replace("-", "_")) or default
        parser.add_argument(f"--{name}", metavar=metavar, default=found, help=text)
    parser.add_argument(
        "--model",
        metavar="[NAME=]MODEL",
        action="append",
        help="a folder or a Hugging Face name to serve here, or with --upstream one of its models; "
        f"repeatable; in {PREFIX}MODEL separated by commas",
    )
    parser.add_argument(
        "--when-drained",
        choices=("exit", "stay"),
        default=environ.get(f"{PREFIX}WHEN_DRAINED") or "exit",
        help="when an operator drains the node: finish and exit, or stay and wait to be resumed",
    )
    parser.add_argument(
        "--train",
        action="store_true",
        default=_is_yes("AGENT_TRAIN", environ.get(f"{PREFIX}TRAIN", "")),
        help="train models for others, with what requirements-worker.txt installs",
    )
    parser.add_argument(
        "--no-hosting",
        action="store_true",
        default=_is_yes("AGENT_NO_HOSTING", environ.get(f"{PREFIX}NO_HOSTING", "")),
        help="serve none of the marketplace's own models, such as those that others have tuned",
    )
    parser.add_argument("--leave", action="store_true", help="remove the node from the marketplace, and exit")
    parser.add_argument("--version", action="version", version=VERSION)
    return parser


def _check(given: argparse.Namespace) -> None:
    for name in ("marketplace", "upstream", "push_url"):
        _check_url(f"--{name.replace('_', '-')}", getattr(given, name))
    if bool(given.email) != bool(given.password):
        raise WrongOption("--email and --password belong together.")
    if given.push_listen and not given.push_url:
        raise WrongOption(
            "--push-listen needs --push-url, the URL at which the marketplace reaches this machine."
        )
    if given.host_adapters and not given.upstream:
        raise WrongOption("--host-adapters needs --upstream, a vLLM server that loads adapters.")
    if given.upstream_key and not given.upstream:
        raise WrongOption("--upstream-key needs --upstream.")
    if given.when_drained not in ("exit", "stay"):
        raise WrongOption(f"{PREFIX}WHEN_DRAINED is exit or stay.")
    if given.log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise WrongOption("--log-level is one of DEBUG, INFO, WARNING, ERROR.")


def _check_url(option: str, text: str) -> None:
    if not text:
        return
    try:
        url = URL(text)
    except ValueError as error:
        raise WrongOption(f"{option} {text}: {error}.") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise WrongOption(f"{option} {text}: expected a URL like http://host:8000.")


def _listen(text: str, push_url: str) -> tuple[str, int]:
    if not push_url:
        return "", 0
    if not text:
        return "0.0.0.0", URL(push_url).port or 80  # noqa: S104 - the marketplace calls from outside
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise WrongOption(f"--push-listen {text}: expected HOST:PORT.")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - likewise


def _split(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(_split(text)))
    if wrong := [kind for kind in kinds if kind not in KINDS]:
        raise WrongOption(f"--kinds {', '.join(wrong)}: choose of {', '.join(KINDS)}.")
    return kinds


def _existing(text: str) -> Path | None:
    if not text:
        return None
    path = Path(text).expanduser()
    if not path.exists():
        raise WrongOption(f"--tokenizer {text}: there is no such file.")
    return path


def _number(option: str, text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or not int(text):
        raise WrongOption(f"{option} {text}: expected a whole number, 1 or more.")
    return int(text)


def _prices(given: argparse.Namespace) -> dict[str, str]:
    found = {
        f"{part}_price": _price(f"--price-{part}", getattr(given, f"price_{part}"))
        for part in ("input", "output", "request")
    }
    return {name: price for name, price in found.items() if price}


def _is_yes(option: str, text: str) -> bool:
    if text.lower() not in ("", "0", "no", "false", "off", "1", "yes", "true", "on"):
        raise WrongOption(f"{option}={text}: expected 1 or 0.")
    return text.lower() in ("1", "yes", "true", "on")


def _price(option: str, text: str) -> str:
    if text and not _AMOUNT.fullmatch(text):
        raise WrongOption(f"{option} {text}: expected a decimal number, such as 0.25.")
    return text


def _seconds(option: str, text: str, *, what: str = "seconds") -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise WrongOption(f"{option} {text}: expected {what}.")
    return seconds


def split_name(text: str) -> tuple[str, str]:
    """`NAME=MODEL`: what it is called here, and what it is; the same where no name is given."""
    name, found, model = text.partition("=")
    return (name, model) if found else (text, text)
