"""What the agent remembers, what it is told, and what it finds on its machine."""

import stat
from pathlib import Path
from typing import Any

import pytest

from gpus.agent import hardware, options
from gpus.agent.options import WrongOption
from gpus.agent.state import State, StateError, StateFile, machine_id


def test_what_was_saved_is_there_again_and_for_nobody_else(tmp_path: Path) -> None:
    states = StateFile(tmp_path)
    states.save(State(machine_id="m", node_token="secret", described={"name": "x"}))
    assert states.load() == State(machine_id="m", node_token="secret", described={"name": "x"})
    assert stat.S_IMODE((tmp_path / "agent.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"surprise": 1}'])
def test_a_broken_file_is_a_fresh_start_of_the_same_machine(tmp_path: Path, content: str) -> None:
    (tmp_path / "agent.json").write_text(content)
    state = StateFile(tmp_path).load()
    assert state.node_token == ""
    assert state.machine_id


def test_two_agents_do_not_share_a_state_folder(tmp_path: Path) -> None:
    first, second = StateFile(tmp_path), StateFile(tmp_path)
    first.lock()
    with pytest.raises(StateError, match="--state-dir"):
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()


def test_a_machine_keeps_its_id_and_each_folder_has_its_own(tmp_path: Path) -> None:
    known = tmp_path / "machine-id"
    known.write_text("0123456789abcdef\n")
    ids = {machine_id(tmp_path / name, known) for name in ("a", "a", "b")}
    assert len(ids) == (3 if Path("/.dockerenv").exists() else 2)
    assert "0123456789abcdef" not in "".join(ids)
    assert machine_id(tmp_path, tmp_path / "none") != machine_id(tmp_path, tmp_path / "none")


def test_hardware_has_the_documents_shape() -> None:
    found = hardware.describe()
    texts = {"gpu_info", "cpu_name", "os_name", "os_version"}
    numbers = {"cpu_core", "cpu_frequency", "total_memory", "total_swap", "ram"}
    assert found.keys() == texts | numbers
    assert all(isinstance(found[key], str) and found[key] for key in texts)
    assert all(isinstance(found[key], int) and int(found[key]) >= 0 for key in numbers)
    assert found["cpu_core"] != 0
    assert found["ram"] == found["total_memory"]


def test_gpus_are_named_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        total, used, gpu = 24 * 2**30 - 2**20, 3 * 2**30, 40

    nvml = hardware.pynvml
    fakes: dict[str, Any] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda handle: b"NVIDIA GeForce RTX 4090" if handle else "NVIDIA L4",
        "nvmlDeviceGetMemoryInfo": lambda _handle: Card,
        "nvmlDeviceGetTemperature": lambda handle, _kind: 50 + handle,
        "nvmlDeviceGetUtilizationRates": lambda _handle: Card,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(nvml, name, fake)
    assert hardware.describe()["gpu_info"] == "NVIDIA L4 (24 GB VRAM); NVIDIA GeForce RTX 4090 (24 GB VRAM)"
    load = hardware.load()
    assert (load["gpu_utilization"], load["vram_used_mb"], load["temperature_c"]) == (40, 6144, 51)


def test_options_come_from_the_environment_and_the_command_line_wins() -> None:
    environ = {
        "AGENT_UPSTREAM": "http://a:1",
        "AGENT_NAME": "n",
        "AGENT_MODEL": "x, y",
        "MARKETPLACE_HOME": "/h",
    }
    found = options.parse(["--name", "other", "--concurrency", "4"], environ)
    assert (found.upstream, found.name, found.models, found.concurrency) == (
        "http://a:1",
        "other",
        ("x", "y"),
        4,
    )
    assert (str(found.state_dir), str(found.models_dir)) == ("/h/agent", "/h/models")
    assert found.delivery == "pull"


def test_push_listens_on_its_urls_port_unless_told_otherwise() -> None:
    found = options.parse(["--push-url", "http://me.example:9000/"], {})
    assert (found.delivery, found.push_url, found.push_port) == ("push", "http://me.example:9000", 9000)
    found = options.parse(["--push-url", "https://me.example", "--push-listen", "[::1]:80"], {})
    assert (found.push_host, found.push_port) == ("::1", 80)


@pytest.mark.parametrize(
    "arguments",
    [
        "--upstream ftp://x", "--marketplace nowhere", "--concurrency 0", "--concurrency many",
        "--kinds video",
        "--email a@b.c", "--push-listen :80", "--push-listen here --push-url http://x", "--drain-timeout -1",
        "--upstream-key k", "--tokenizer /nowhere", "--log-level loud",
    ],
)  # fmt: skip
def test_a_wrong_option_gets_one_line(arguments: str) -> None:
    with pytest.raises(WrongOption) as raised:
        options.parse(arguments.split(), {})
    assert "\n" not in str(raised.value)
    assert arguments.split()[0] in str(raised.value)


def test_secrets_are_not_shown_by_accident() -> None:
    found = options.parse(["--token", "t-secret", "--upstream", "http://x", "--upstream-key", "k-secret"], {})
    assert "secret" not in repr(found)
