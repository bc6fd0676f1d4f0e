"""The books of a running marketplace, read in a process of its own: `python -m tests.flows.books`.

Prints JSON: what breaks the trial balance, what is still held or running, and how each request ended.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from marketplace.embedded.home import PROJECT


def read(web_pid: int, *, receipts: int = 0) -> dict[str, Any]:
    """The books of the marketplace that a web process belongs to; that many receipts are verified, too."""
    said = Path(f"/proc/{web_pid}/environ").read_bytes().split(b"\0")
    env = dict(line.decode().split("=", 1) for line in said if line)
    command = [sys.executable, "-m", "tests.flows.books", str(receipts)]
    done = subprocess.run(command, cwd=PROJECT, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def _look(receipts: int) -> dict[str, Any]:
    from clients import trial_balance
    from clients.models import Hold
    from inference import proofs, verification
    from inference.models import Inference, Running

    report = trial_balance.run()
    charged = Inference.objects.filter(charged__gt=0)
    for record in charged.order_by("?")[:receipts]:
        verification.verify(proofs.document(record))
    return {
        "adds_up": report.adds_up,
        "breaks": [str(result) for result in report.results if result.count],
        "holds": list(
            Hold.objects.filter(ended_at=None, pk__startswith="inference:").values_list("pk", flat=True)
        ),
        "running": list(Running.objects.values_list("pk", flat=True)),
        "charged": charged.count(),
        "records": {
            pk: [status, str(paid)]
            for pk, status, paid in Inference.objects.values_list("id", "status", "charged")
        },
    }


if __name__ == "__main__":
    import django

    django.setup()
    print(json.dumps(_look(int(sys.argv[1]))))
