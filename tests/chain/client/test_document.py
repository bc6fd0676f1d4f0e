"""The document's examples word for word: `ogpu.client` is read as `chain.client`, placeholders are filled in."""

import inspect
import re
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import chain.client
from chain.client import (
    ChainConfig,
    ConfirmedResponse,
    Response,
    deposit,
    get_task,
    provider,
    publish_source,
    publish_task,
    vault,
)
from chain.client.types import DeliveryMethod
from tests.chain.client.conftest import COIN, source_info
from tests.chain.network import Network

DOCUMENT = Path(__file__).parent / "document.txt"


def examples() -> dict[str, str]:
    """The code after each "Example:", by the heading above it."""
    found: dict[str, str] = {}
    heading, code, taking = "", [], False
    for line in [*DOCUMENT.read_text().splitlines(), "ogpu.client.end"]:
        if re.fullmatch(r"ogpu\.client\.[\w.]+", line) or line.endswith("¶"):
            if code:
                found[heading] = "\n".join(code)
            heading, code, taking = line.strip("¶ ") or heading, [], False
        elif line.startswith("Example:"):
            taking = True
        elif taking:
            code.append(line)
    return {name: text for name, text in found.items() if text.strip()}


EXAMPLES = examples()


def indented(code: str) -> str:
    """The document's text has lost the indentation: after a colon, fields and prints belong to it."""
    lines, inside = [], False
    for line in code.splitlines():
        inside = inside and bool(re.match(r"\w+: |print\(", line))
        lines.append(f"    {line}" if inside else line)
        inside = inside or line.endswith(":")
    return "\n".join(lines)


def run(name: str, known: dict[str, Any] | None = None, **placeholders: str) -> dict[str, Any]:
    """The names that an example leaves behind."""
    code = indented(EXAMPLES[name]).replace("ogpu.client", "chain.client")
    for placeholder, value in placeholders.items():
        assert placeholder in code
        code = code.replace(placeholder, value)
    names = {**(known or {})}
    exec(compile(code, name, "exec"), names)
    return names


def everything() -> dict[str, Any]:
    """What the examples of the data types take for granted."""
    return {name: getattr(chain.client, name) for name in chain.client.__all__}


def test_no_example_is_forgotten() -> None:
    assert sorted(EXAMPLES) == [
        "ogpu.client.chain_config.ChainConfig.get_all_supported_chains",
        "ogpu.client.chain_config.ChainConfig.get_contract_address",
        "ogpu.client.chain_config.ChainConfig.get_current_chain",
        "ogpu.client.chain_config.ChainConfig.set_chain",
        "ogpu.client.responses.get_task_responses",
        "ogpu.client.source.publish_source",
        "ogpu.client.task.publish_task",
        "ogpu.client.types.ImageEnvironments",
        "ogpu.client.types.Response",
        "ogpu.client.types.SourceInfo",
        "ogpu.client.types.TaskInfo",
        "ogpu.client.types.TaskInput",
    ]


def test_publishing_a_source_and_a_task_and_reading_the_responses(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    deposit(COIN)
    source = run("ogpu.client.source.publish_source")["source_address"]
    # The document's source asks for a stake.
    deposit(COIN // 100, network.bob.private_key)
    vault.lock(COIN // 100)
    provider.register(source)
    placeholder = {"0x1234567890123456789012345678901234567890": source}
    task = run("ogpu.client.task.publish_task", **placeholder)["task_address"]
    provider.attempt(task, COIN // 100)
    provider.submit_response(task, '{"result": "positive sentiment"}')

    known = {"get_task_responses": chain.client.get_task_responses, "task_address": task}
    run("ogpu.client.responses.get_task_responses", known)

    assert capsys.readouterr().out.splitlines() == [
        f"Source published at: {source}",
        f"Task published at: {task}",
        f"Provider: {network.bob.address}",
        "Status: 0",
        'Data: {"result": "positive sentiment"}',
    ]
    assert get_task(task).payment == COIN // 100


def test_networks(capsys: pytest.CaptureFixture[str]) -> None:
    run("ogpu.client.chain_config.ChainConfig.set_chain")
    known = {"ChainConfig": ChainConfig}
    run("ogpu.client.chain_config.ChainConfig.get_current_chain", known)
    run("ogpu.client.chain_config.ChainConfig.get_contract_address", known)
    run("ogpu.client.chain_config.ChainConfig.get_all_supported_chains", known)

    assert capsys.readouterr().out.splitlines()[:7] == [
        "Current chain: OGPU_MAINNET",
        "Chain ID: 1071",
        "NEXUS: 0x2b0cC6058313801D5feb184a539e3a0C5A87a6a1",
        "CONTROLLER: 0x8661F4B9c30e07A04d795A192478dfD905625a1D",
        "TERMINAL: 0xaEBC7b712D38Fc4d841f0732c21B8774339869D3",
        "Chain: OGPU_TESTNET (ID: 200820172034)",
        "Chain: OGPU_MAINNET (ID: 1071)",
    ]


@pytest.mark.parametrize("name", [name for name in EXAMPLES if ".types." in name])
def test_data_types(name: str) -> None:
    known = everything() | {"Web3": __import__("web3").Web3}

    left = run(name, known)

    assert set(left) - set(known) - {"__builtins__"}, "the example makes something"


def test_a_pydantic_model_is_data() -> None:
    task_input = run("ogpu.client.types.TaskInput", everything())["task_input"]

    assert task_input.to_dict() == {
        "function_name": "inference",
        "data": {"inputs": "Hello world", "parameters": {}},
    }


@pytest.mark.parametrize(
    ("function", "parameters", "result"),
    [
        (chain.client.publish_source, {"source_info": inspect.Parameter.empty, "private_key": None}, str),
        (chain.client.publish_task, {"task_info": inspect.Parameter.empty, "private_key": None}, str),
        (
            chain.client.get_task_responses,
            {"task_address": inspect.Parameter.empty, "lower": 0, "upper": None},
            list[Response],
        ),
        (
            chain.client.get_confirmed_response,
            {"task_address": inspect.Parameter.empty},
            ConfirmedResponse,
        ),
        (
            chain.client.confirm_response,
            {"response_address": inspect.Parameter.empty, "private_key": None},
            str,
        ),
    ],
)
def test_signatures_are_the_documents(
    function: Callable[..., Any], parameters: dict[str, Any], result: Any
) -> None:
    signature = inspect.signature(function)
    positional = {
        name: found.default
        for name, found in signature.parameters.items()
        if found.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    }
    assert positional == parameters
    assert signature.return_annotation == result


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("ImageEnvironments", "cpu nvidia amd"),
        (
            "SourceInfo",
            "name description logoUrl imageEnvs minPayment minAvailableLockup maxExpiryDuration deliveryMethod",
        ),
        ("TaskInput", "function_name data"),
        ("TaskInfo", "source config expiryTime payment"),
        ("Response", "address task provider data payment status timestamp confirmed"),
        ("ConfirmedResponse", "address data"),
    ],
)
def test_fields_are_the_documents(name: str, fields: str) -> None:
    assert list(getattr(chain.client, name).__dataclass_fields__) == fields.split()


def test_the_documents_modules_hold_its_names() -> None:
    for path in re.findall(r"^ogpu\.client\.(\w+)\.(\w+)", DOCUMENT.read_text(), re.MULTILINE):
        module = __import__(f"chain.client.{path[0]}", fromlist=[path[1]])
        assert hasattr(module, path[1]), path


def test_delivery_methods_have_their_numbers() -> None:
    assert [(method.name, method.value) for method in DeliveryMethod] == [
        ("MANUAL_CONFIRMATION", 0),
        ("FIRST_RESPONSE", 1),
    ]


def test_the_whole_path_that_the_document_describes(network: Network) -> None:
    """Its functions for confirmed responses have no example of their own."""
    deposit(COIN)
    source = publish_source(source_info())
    provider.register(source)
    task = publish_task(
        chain.client.TaskInfo(
            source, chain.client.TaskInput("f", {"a": 1}), int(time.time()) + 60, COIN // 1000
        )
    )
    provider.attempt(task, 0)
    response = provider.submit_response(task, textwrap.dedent('{"result": 1}'))

    assert chain.client.confirm_response(response).startswith("0x")
    assert chain.client.get_confirmed_response(task) == ConfirmedResponse(response, '{"result": 1}')
