"""A node that trains, as the marketplace's endpoints for it see one."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from typing import Any

from rest_framework.test import APIClient

from clients import credentials
from finetune.models import Attempt
from gpus.models import Node

CHECKPOINT = "checkpoint.tar"


def with_token(node: Node) -> str:
    """A new token of a node's."""
    token = credentials.new_secret("")
    Node.objects.filter(pk=node.pk).update(token_prefix=token[:8], token_digest=credentials.digest(token))
    return token


class Caller:
    """A node's program, calling for one attempt."""

    def __init__(self, attempt: Attempt, token: str) -> None:
        self.attempt = attempt
        self.path = f"/llm_models/training/{attempt.token}/"
        self._http = APIClient()
        self._headers = {"HTTP_AUTHORIZATION": f"Bearer {token}"} if token else {}

    def get(self) -> Any:
        return self._http.get(self.path, **self._headers)

    def post(self, name: str, body: Any = None) -> Any:
        return self._http.post(f"{self.path}{name}/", body or {}, format="json", **self._headers)

    def say(self, *events: dict[str, Any], first: int = 1) -> Any:
        return self.post("events", {"first": first, "events": list(events)})

    def announce(self, path: str, content: bytes, **other: Any) -> Any:
        said = {"path": path, "sha256": sha256(content), "size": len(content)} | other
        return self.post("files", said)

    def put(self, url: str, content: bytes) -> Any:
        return self._http.put(url, content, content_type="application/octet-stream")

    def send(self, path: str, content: bytes) -> str:
        """Announce and send; its hash."""
        reply = self.announce(path, content)
        assert reply.status_code == 200, reply.content
        if reply.json()["url"] is not None:
            assert self.put(reply.json()["url"], content).status_code == 200
        return sha256(content)

    def finish(self, files: dict[str, bytes], **said: Any) -> Any:
        listed = [{"path": path, "sha256": self.send(path, content)} for path, content in files.items()]
        return self.post("finish", {"files": listed, "said": FINISHED | said})


FINISHED = {
    "event": "finished", "folder": "result", "main": "eval_loss", "before": {"eval_loss": 3.0},
    "after": {"eval_loss": 1.0}, "is_better": True, "kind": "adapter", "tokens": 600, "seconds": 3.5,
}  # fmt: skip


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def safetensors(numbers: int = 4) -> bytes:
    """A file with one tensor of so many float32."""
    header = {
        "base_model.model.layer.lora_A.weight": {
            "dtype": "F32",
            "shape": [numbers],
            "data_offsets": [0, 4 * numbers],
        }
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4 * numbers)


def adapter() -> dict[str, bytes]:
    """The files of a result."""
    return {
        "adapter_config.json": b'{"peft_type": "LORA", "r": 2, "base_model_name_or_path": "toy"}',
        "adapter_model.safetensors": safetensors(),
        "README.md": b"# A result\n",
    }


Begin = Callable[..., Caller]
