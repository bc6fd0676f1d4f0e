"""A model of one's own: uploaded, served by a provider's node that was asked to, and answered to its owner alone."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.flows.conftest import Marketplace, eventually
from tests.models import zipped


def toy(marketplace: Marketplace) -> dict[str, bytes]:
    """The files of the toy that the agent has trained."""
    folders = sorted(
        path for path in (marketplace.home / "models").iterdir() if (path / "config.json").exists()
    )
    return {path.name: path.read_bytes() for path in folders[-1].iterdir() if not path.name.startswith(".")}


def chat(marketplace: Marketplace, model: str, *, key: str | None = None) -> requests.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    with marketplace.session(key) as session:
        return session.post(f"{marketplace.url}/v1/chat/completions", json=body, timeout=60)


def log(marketplace: Marketplace) -> str:
    return marketplace.log("agent")[-3000:] + marketplace.log("worker")[-3000:]


@pytest.fixture(scope="module")
def model(marketplace: Marketplace) -> Iterator[str]:
    with marketplace.session() as session:
        file = ("toy.zip", zipped(toy(marketplace), folder="toy/"))
        began = time.monotonic()
        reply = session.post(
            f"{marketplace.url}/ai/models/upload",
            data={"model_name": "my-toy"},
            files={"file": file},
            timeout=60,
        )
        assert reply.status_code == 201, reply.text
        name: str = reply.json()["model_id"]
        eventually(
            lambda: chat(marketplace, name).status_code == 200, within_s=20, what=lambda: log(marketplace)
        )
        print(f"served {time.monotonic() - began:.1f} s after the upload began")
        yield name
        session.delete(f"{marketplace.url}/ai/models/{name}", timeout=10)


def details(marketplace: Marketplace, model: str) -> dict[str, Any]:
    with marketplace.session() as session:
        return dict(session.get(f"{marketplace.url}/ai/models/{model}", timeout=10).json())


def test_it_answers_its_owner_and_nobody_else(marketplace: Marketplace, model: str) -> None:
    reply = chat(marketplace, model)
    assert "toy" in reply.json()["choices"][0]["message"]["content"] or reply.status_code == 200
    assert reply.json()["model"] == model
    assert [each["state"] for each in details(marketplace, model)["hosting"]] == ["serving"]
    stranger = chat(marketplace, model, key=marketplace.provider["api_key"])
    assert (stranger.status_code, stranger.json()["error"]["code"]) == (404, "model_not_found")


def test_it_comes_back_when_the_node_was_killed(marketplace: Marketplace, model: str) -> None:
    marketplace.kill("agent")
    eventually(
        lambda: chat(marketplace, model).status_code == 200, within_s=60, what=lambda: log(marketplace)
    )


def test_nodes_let_go_of_it_when_it_is_wanted_no_longer(marketplace: Marketplace, model: str) -> None:
    with marketplace.session() as session:
        url = f"{marketplace.url}/ai/models/{model}"
        assert session.patch(url, json={"hosted": False}, timeout=10).json()["hosting"] == []
        eventually(lambda: chat(marketplace, model).status_code == 503, within_s=10)
        eventually(lambda: f"no longer hosting {model}" in marketplace.log("agent"), within_s=10)
        session.patch(url, json={"hosted": True}, timeout=10)
        eventually(lambda: chat(marketplace, model).status_code == 200, within_s=20)


def test_the_weights_can_be_had_back(marketplace: Marketplace, model: str, tmp_path: Path) -> None:
    with marketplace.session() as session:
        url = f"{marketplace.url}/ai/models/{model}/revisions/1/files/model.safetensors"
        assert session.get(url, timeout=10).content == toy(marketplace)["model.safetensors"]
