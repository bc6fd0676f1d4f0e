"""Whatever a stranger's fuzzer sends to what Swagger lists: no 5xx, no answer that Swagger does not know."""

import subprocess
import sys
from pathlib import Path

import pytest
import requests

CHECKS = "not_a_server_error,status_code_conformance,response_schema_conformance"
# What would end the fuzzer's own login; and registering, which gets a run of its own: the nodes that it makes up
# offer models that nobody answers for, and asking for those is a 503 that is right.
OWN_LOGIN = r"logout|/client/list/\{id\}|/client/tokens|/client/reset-password"
REGISTER = r"/llm_models/register"
# Likewise: whoever reserves the only node leaves a 503 to all others.
ALLOCATE = r"/compute/allocate$"
KNOWN = "status_code_conformance,response_schema_conformance"


@pytest.fixture(scope="module")
def token(marketplace):
    """A login of an account that nobody else uses: the fuzzer changes and revokes whatever it may."""
    person = {"username": "fuzzer", "email": "fuzzer@example.com", "password": "correct horse battery"}
    more = {"confirm_password": person["password"], "terms_accepted": True}
    requests.post(f"{marketplace.url}/client/register/", json=person | more, timeout=10).raise_for_status()
    entered = requests.post(f"{marketplace.url}/client/login/", json=person, timeout=10)
    token = entered.json()["token"]
    yield token
    give_back_nodes(marketplace.url, token)


def give_back_nodes(url: str, token: str) -> None:
    """Release what the fuzzer has reserved: the stories after this one need the node."""
    with requests.Session() as session:
        session.headers["Authorization"] = f"Token {token}"
        for made in session.get(f"{url}/compute/allocations", timeout=10).json():
            session.delete(f"{url}/compute/allocations/{made['allocation_id']}", timeout=10)


def fuzz(folder: Path, url: str, token: str, *options: str, checks: str = CHECKS) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/swagger.json"]
    command += ["-H", f"Authorization: Token {token}", "--phases", "examples,coverage,fuzzing", "-n", "15"]
    command += ["--checks", checks, "--request-timeout", "30", "--workers", "2", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout[:20000] + done.stderr[-2000:]


def test_nothing_breaks_what_is_documented(marketplace, token, tmp_path):
    fuzz(tmp_path, marketplace.url, token, "--exclude-path-regex", f"{OWN_LOGIN}|{REGISTER}|{ALLOCATE}")


def test_nothing_breaks_registration(marketplace, token, tmp_path):
    fuzz(tmp_path, marketplace.url, token, "--include-path-regex", REGISTER)


def test_nothing_breaks_allocation(marketplace, token, tmp_path):
    # A 503 is known there, a 500 is not.
    fuzz(tmp_path, marketplace.url, token, "--include-path-regex", ALLOCATE, checks=KNOWN)
