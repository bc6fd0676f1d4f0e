"""What `scripts/run` starts works as a whole, and comes back as a whole."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import requests

from marketplace.embedded.demo import OWN_MODELS
from marketplace.embedded.home import PROJECT
from tests.flows.conftest import eventually, start, stop

PARTS = {"postgres", "valkey", "devnet", "web-1", "web-2", "worker", "trainer", "chain", "beat", "agent"}


def test_every_part_answers(marketplace):
    assert set(marketplace.state()["answering"]) == PARTS


def test_the_operator_can_enter_the_admin(marketplace):
    with requests.Session() as session:
        page = session.get(f"{marketplace.url}/admin/login/")
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)[1]
        form = {
            "username": "operator",
            "password": marketplace.operator["password"],
            "csrfmiddlewaretoken": token,
        }
        entered = session.post(f"{marketplace.url}/admin/login/?next=/admin/", data=form)
    assert entered.status_code == 200
    assert entered.url.endswith("/admin/")


def test_the_main_job_is_done_in_front_of_the_user(marketplace):
    command = [sys.executable, "-m", "marketplace.embedded.demo", marketplace.url]
    env = os.environ | {
        "API_KEY": marketplace.api_key,
        "PROVIDER_API_KEY": marketplace.provider["api_key"],
        "MODELS_DIR": str(marketplace.home / "models"),
    }
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    assert re.search(r"node local-node, \d+ \+ \d+ tokens, first after \d+ ms, all after \d+ ms", done.stdout)
    assert "(384 dimensions)" in done.stdout
    assert "price 2 OMNIT per million prompt tokens, 6 per million completion tokens" in done.stdout
    assert re.search(r"paid 0\.\d+ OMNIT: provider 0\.\d+, fee 0\.\d+", done.stdout)
    assert (
        len(re.findall(r"receipt /inference/\d+/receipt verified, signed by 0x[0-9a-fA-F]{40}", done.stdout))
        == 2
    )


def test_what_is_printed_works_as_printed(marketplace):
    snippet = marketplace.printed().split("Python (pip install openai):\n")[1].split("\nLogs are in")[0]
    code = "\n".join(line.removeprefix("  ") for line in snippet.splitlines())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_printed_curl_works_as_printed(marketplace):
    command = marketplace.printed().split("curl:\n")[1].split("\nPython")[0]
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stdout.rstrip().endswith("data: [DONE]"), done


def test_credentials_are_shown_again_on_demand(marketplace):
    command = [sys.executable, "-m", "marketplace.embedded", "credentials", "--home", str(marketplace.home)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert marketplace.operator["password"] in done.stdout
    assert marketplace.api_key in done.stdout
    assert (marketplace.home / "credentials.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["web-1", "worker", "trainer", "beat", "valkey", "postgres", "agent"])
def test_a_killed_part_comes_back(marketplace, name):
    marketplace.kill(name, with_signal=signal.SIGKILL)
    assert f"{name} ended (SIGKILL) and answers again after" in marketplace.printed()


def test_after_all_that_the_models_are_still_offered(marketplace):
    def offered() -> set[str]:
        with marketplace.session() as session:
            found = session.get(f"{marketplace.url}/v1/models", timeout=10).json()
        return {model["id"] for model in found.get("data", []) if model["available"]}

    eventually(lambda: offered() >= set(OWN_MODELS), what=lambda: json.dumps(marketplace.state()))


def test_a_killed_supervisor_takes_everything_with_it_and_the_next_one_goes_on(marketplace):
    home = Path(tempfile.mkdtemp(prefix="marketplace-flow-"))
    home.chmod(0o755)
    first = start(home)
    family = psutil.Process(first.process.pid).children(recursive=True)
    first.process.kill()
    first.process.wait()
    assert not psutil.wait_procs(family, timeout=5)[1]
    again = start(home)
    assert (again.url, again.consumer) == (first.url, first.consumer)
    assert first.url != marketplace.url
    assert stop(again) == 0
    shutil.rmtree(home)
