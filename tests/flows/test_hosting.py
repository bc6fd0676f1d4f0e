"""Models that the marketplace keeps, served by a provider's node that was asked to."""

import subprocess
import sys
from typing import Any

import pytest

from marketplace.embedded.home import PROJECT
from tests.flows.conftest import MODELS, Marketplace, eventually

TOY = "toy-byte-llama"


def chat(marketplace: Marketplace, model: str, *, key: str | None = None) -> Any:
    with marketplace.session(key) as session:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        return session.post(f"{marketplace.url}/v1/chat/completions", json=body, timeout=60)


@pytest.fixture
def manage(marketplace: Marketplace) -> Any:
    def run(*arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(
            command, cwd=PROJECT, env=marketplace.environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_an_imported_model_is_served_within_seconds(marketplace: Marketplace, manage: Any) -> None:
    folder = next(path for path in MODELS.iterdir() if (path / "config.json").exists())
    said = manage("import_model", "imported/toy", str(folder), "--host")
    assert "was asked to serve it" in said
    eventually(
        lambda: chat(marketplace, "imported/toy").status_code == 200,
        within_s=20,
        what=lambda: marketplace.log("agent"),
    )
