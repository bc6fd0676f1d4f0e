"""Refuses functions over 60 lines and files over 500: what is longer has more than one subject."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

LONGEST_FUNCTION, LONGEST_FILE = 60, 500
FOLDERS = (
    "marketplace",
    "clients",
    "gpus",
    "inference",
    "finetune",
    "chain",
    "tests",
    "benchmarks",
    "scripts",
)


def too_long(file: Path) -> Iterator[str]:
    text = file.read_text()
    lines = text.count("\n")
    if lines > LONGEST_FILE:
        yield f"{file}: {lines} lines, at most {LONGEST_FILE}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{file}:{node.lineno}: {node.name} has {length} lines, at most {LONGEST_FUNCTION}"


def main() -> int:
    files = [
        file for folder in FOLDERS for file in Path(folder).rglob("*.py") if "migrations" not in file.parts
    ]
    found = [complaint for file in files for complaint in too_long(file)]
    sys.stdout.writelines(f"{complaint}\n" for complaint in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
