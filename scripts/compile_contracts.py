"""Compiles the contracts to chain/contracts/artifacts, or checks that what lies there is what the sources give.

Usage: compile_contracts.py build|check. Runs in .venv-contracts; scripts/contracts calls it.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import vyper
from vyper.cli.vyper_compile import compile_files
from vyper.compiler.settings import Settings

FOLDER = Path("chain/contracts")
ARTIFACTS = FOLDER / "artifacts"
EVM_VERSION = "cancun"
CREATED_BY_CONTRACTS = ("Source", "Task", "Response")
OUTPUTS = ["abi", "bytecode", "blueprint_bytecode", "integrity"]

# Words that Vyper or snekmate will not let a name be, and what the published clients call them.
RENAMED = {
    "_value": "value",
    "interface_id": "interfaceId",
    "previous_owner": "previousOwner",
    "new_owner": "newOwner",
}
# What Vyper cannot name: the parts of a result, and the arguments of a getter.
NAMED_OUTPUTS = {
    "sourceParams": "SourceParams",
    "taskParams": "TaskParams",
    "responseParams": "ResponseParams",
}
NAMED_INPUTS = {"hasRole": ["role", "account"], "getRoleAdmin": ["role"]}
# What Vyper cannot declare: the sources encode these errors by hand.
OWNABLE = ("Nexus", "Controller", "Terminal", "Source", "Task", "Response")
ERRORS = {
    "OwnableInvalidOwner": [("owner", "address")],
    "OwnableUnauthorizedAccount": [("account", "address")],
    "AccessControlBadConfirmation": [],
    "AccessControlUnauthorizedAccount": [("account", "address"), ("neededRole", "bytes32")],
}


def compiled(name: str) -> dict[str, Any]:
    """The artifact of the contract `name`, as `chain.contracts.Artifact` reads it."""
    file = FOLDER / f"{name}.vy"
    settings = Settings(evm_version=EVM_VERSION)
    (output,) = compile_files([str(file)], OUTPUTS, paths=search_paths(), settings=settings).values()
    return {
        "name": name,
        "compiler": f"vyper {vyper.__version__}",
        "evm_version": EVM_VERSION,
        "source_hash": output["integrity"],
        "abi": dressed(name, output["abi"]),
        "bytecode": output["bytecode"],
        "blueprint": output["blueprint_bytecode"] if name in CREATED_BY_CONTRACTS else None,
    }


def search_paths() -> list[str]:
    packages = Path(vyper.__file__).parent.parent
    return [str(packages), str(FOLDER)]


def dressed(name: str, abi: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ABI with the names and the errors that Vyper cannot express. Types, and with them all calls, stay."""
    for entry in abi:
        for parameter in entry.get("inputs", []):
            parameter["name"] = RENAMED.get(parameter["name"], re.sub(r"^arg\d+$", "", parameter["name"]))
        give_names(entry.get("outputs", []), output_names(abi, entry))
        give_names(entry.get("inputs", []), NAMED_INPUTS.get(entry.get("name", "")))
    prefix = "Ownable" if name in OWNABLE else "AccessControl" if name == "Manager" else "None"
    errors = [
        {"type": "error", "name": error, "inputs": [{"name": n, "type": t} for n, t in inputs]}
        for error, inputs in ERRORS.items()
        if error.startswith(prefix)
    ]
    return abi + errors


def output_names(abi: list[dict[str, Any]], entry: dict[str, Any]) -> list[str] | None:
    """The parts of a struct that a getter returns one by one are named as the constructor's are."""
    if entry.get("name") not in NAMED_OUTPUTS:
        return None
    (constructor,) = (each for each in abi if each["type"] == "constructor")
    return [component["name"] for component in constructor["inputs"][0]["components"]]


def give_names(parameters: list[dict[str, Any]], names: list[str] | None) -> None:
    if names is not None:
        for parameter, name in zip(parameters, names, strict=True):
            parameter["name"] = name


def rendered(artifact: dict[str, Any]) -> str:
    """JSON with one entry of the ABI to a line, so that a change of it can be read."""
    lines = [
        f"  {json.dumps(key)}: {json.dumps(value) if key != 'abi' else rendered_abi(value)}"
        for key, value in artifact.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def rendered_abi(abi: list[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join(f"    {json.dumps(entry)}" for entry in abi) + "\n  ]"


def contracts() -> list[str]:
    """Modules that others use begin with a small letter."""
    return sorted(file.stem for file in FOLDER.glob("[A-Z]*.vy"))


def main() -> int:
    if sys.argv[1:] not in (["build"], ["check"]):
        sys.exit("Usage: compile_contracts.py build|check")
    stale = []
    for name in contracts():
        file, text = ARTIFACTS / f"{name}.json", rendered(compiled(name))
        if sys.argv[1] == "build":
            ARTIFACTS.mkdir(exist_ok=True)
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            stale.append(str(file))
    for file_name in stale:
        sys.stderr.write(f"{file_name} is not what the sources give: run scripts/contracts build\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
