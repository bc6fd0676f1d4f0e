"""An ABI as lines that can be read and compared: one for each function, event, error and constructor."""

from typing import Any


def lines(abi: list[dict[str, Any]]) -> set[str]:
    return {line(entry) for entry in abi}


def line(entry: dict[str, Any]) -> str:
    """Names, types, the order and names of a struct's parts, what is indexed, results and mutability."""
    words = [entry["type"], entry.get("name", "") + parameters(entry.get("inputs", []))]
    if "stateMutability" in entry:
        words.append(entry["stateMutability"])
    if entry.get("outputs"):
        words.append("returns " + parameters(entry["outputs"]))
    return " ".join(words)


def parameters(entries: list[dict[str, Any]]) -> str:
    return "(" + ", ".join(map(parameter, entries)) + ")"


def parameter(entry: dict[str, Any]) -> str:
    kind = (
        entry["type"].replace("tuple", parameters(entry["components"]))
        if "components" in entry
        else entry["type"]
    )
    return " ".join(word for word in (kind, "indexed" if entry.get("indexed") else "", entry["name"]) if word)
