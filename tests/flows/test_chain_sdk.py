"""The published OpenGPU SDK, unmodified and in an environment of its own, against a whole marketplace."""

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
import requests

from chain.devnet.accounts import development_accounts
from marketplace.embedded.demo import CHAT_MODEL
from marketplace.embedded.home import PROJECT
from tests.flows.conftest import eventually

PROGRAMS = Path(__file__).parent / "sdk"
WALLETS = {"0.2.3": development_accounts()[6], "0.2.0.15": development_accounts()[7]}
PAYMENT, FEE = Decimal("0.01"), Decimal("0.05")


def python_with(version: str) -> Path:
    """An interpreter that has this version of the SDK; made once."""
    folder = PROJECT / ".local" / "test" / f"ogpu-{version}"
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [
            str(python),
            "-m",
            "pip",
            "install",
            "-qq",
            "--disable-pip-version-check",
            f"ogpu=={version}",
        ]
        subprocess.run(install, check=True)
        ready.touch()
    return python


@pytest.mark.timeout(420)
@pytest.mark.parametrize("version", WALLETS)
def test_its_task_is_answered_by_a_node_confirmed_and_paid(marketplace, version):
    provider = marketplace.session(marketplace.provider["api_key"])
    network = requests.get(f"{marketplace.url}/chain/networks/local/").json()

    def incomes() -> int:
        moved = provider.get(f"{marketplace.url}/account/transactions?kind=onchain&limit=1000").json()
        return sum(Decimal(each["amount"]) == PAYMENT * (1 - FEE) for each in moved)

    before = incomes()
    program = PROGRAMS / f"published_{version.replace('.', '_')}.py"
    command = [
        str(python_with(version)),
        str(program),
        json.dumps(network),
        CHAT_MODEL,
        WALLETS[version].private_key,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env={"HOME": "/nonexistent"})
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])

    answer = requests.get(said["data"])
    assert answer.status_code == 200
    assert "toy" in json.dumps(answer.json())
    assert said["confirmed"] == said["response"]

    # The same through our own API, once our reading of the chain has come so far.
    found = f"{marketplace.url}/chain/tasks/{said['task']}/"
    eventually(lambda: marketplace.session().get(found).json()["status"] == "finalized")
    confirmed = requests.get(f"{marketplace.url}/api/tasks/{said['task']}").json()["data"]
    assert (confirmed["address"], confirmed["data"]) == (said["response"], said["data"])

    eventually(lambda: incomes() > before)
    assert incomes() == before + 1
