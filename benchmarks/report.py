"""What a run says at its end: markdown, printed and kept in README.md."""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

FSYNC_PAGES, PAGE_BYTES = 200, 8192
README = Path(__file__).parent / "README.md"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; all columns but the first are aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """What it ran on, as one sentence."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{os.cpu_count()} cores ({model}), {platform.system()}, Python {platform.python_version()}"


def disk(folder: Path) -> str:
    """How long the disk under `folder` takes to make a page durable: what every commit costs at the least."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(FSYNC_PAGES * PAGE_BYTES))
        file.flush()
        os.fsync(file.fileno())
        for page in range(FSYNC_PAGES):
            began = time.perf_counter()
            os.pwrite(file.fileno(), bytes(PAGE_BYTES), page * PAGE_BYTES)
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return f"fdatasync on this disk {statistics.median(taken) * 1000:.2f} ms"


def publish(name: str, text: str) -> None:
    """Put `text` between the markers `<!-- name:begin -->` and `<!-- name:end -->` of README.md."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = README.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{README} has no {begin} … {end}")
    README.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
