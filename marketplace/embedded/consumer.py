"""An application with an API key: the marketplace over HTTP, as the demo uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import requests

MAX_TOKENS = 100
TIMEOUT_S = 120


class Unanswered(Exception):
    """The main job was not done. The message says why."""


class Consumer:
    """Every method raises Unanswered where the answer is no success, unless it says otherwise."""

    def __init__(self, url: str, api_key: str) -> None:
        self.url = url
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {api_key}"

    def models(self) -> list[dict[str, Any]]:
        return list(self.get("/v1/models")["data"])

    def chat(self, model: str, prompt: str) -> tuple[requests.Response, Iterator[dict[str, Any]]]:
        """The reply, whose headers name the node and the receipt, and its chunks as they arrive."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": MAX_TOKENS,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        reply = self.answered(
            self._session.post(f"{self.url}/v1/chat/completions", json=body, stream=True, timeout=TIMEOUT_S)
        )
        return reply, _chunks(reply)

    def embed(self, model: str, text: str) -> requests.Response:
        return self.post("/v1/embeddings", {"model": model, "input": text})

    def get(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self.answered(self._session.get(self.url + path, timeout=TIMEOUT_S)).json()
        return found

    def post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        return self.answered(
            self._session.post(self.url + path, json=body, headers=headers, timeout=TIMEOUT_S)
        )

    def upload(self, path: str, filename: str, content: bytes) -> requests.Response:
        """A form with one file; the reply, whatever it is."""
        return self._session.post(self.url + path, files={"file": (filename, content)}, timeout=TIMEOUT_S)

    def delete(self, path: str) -> None:
        """What is gone already is gone."""
        reply = self._session.delete(self.url + path, timeout=TIMEOUT_S)
        if reply.status_code != 404:
            self.answered(reply)

    def download(self, path: str) -> bytes:
        return self.answered(self._session.get(self.url + path, timeout=TIMEOUT_S)).content

    @staticmethod
    def answered(reply: requests.Response) -> requests.Response:
        if not reply.ok:
            raise Unanswered(f"{reply.request.method} {reply.url}: {reply.status_code} {reply.text[:500]}")
        return reply


def _chunks(reply: requests.Response) -> Iterator[dict[str, Any]]:
    for line in reply.iter_lines(chunk_size=1):
        if line == b"data: [DONE]":
            return
        if line.startswith(b"data: "):
            chunk: dict[str, Any] = json.loads(line[6:])
            if "error" in chunk:
                raise Unanswered(f"The stream ended with an error: {chunk['error'].get('message')}")
            yield chunk
    raise Unanswered("The stream ended before it was complete.")
