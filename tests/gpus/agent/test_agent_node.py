"""How a node joins, stays known, and obeys."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from gpus.agent import options
from gpus.agent.engines.upstream import Upstream
from gpus.agent.intake import Intake
from gpus.agent.marketplace import Marketplace, MarketplaceAway, MarketplaceRefused, said
from gpus.agent.node import CannotJoin, Node, back_off, version_tuple
from gpus.agent.state import StateFile
from tests.gpus.agent.fakes import LinkServer, until

Start = Callable[..., Any]


class Joining:
    def __init__(self, node: Node, intake: Intake, engine: Upstream) -> None:
        self.node, self.intake, self.engine = node, intake, engine
        self.drains: list[bool] = []


@pytest.fixture
async def joining(
    stack: AsyncExitStack, marketplace: LinkServer, upstream: Start, tmp_path: Path
) -> Callable[..., Any]:
    """A node that has not joined yet, with the command line given."""
    url = await stack.enter_async_context(marketplace.running_at())
    engine = await upstream()

    async def make(*arguments: str) -> Joining:
        parsed = options.parse(["--marketplace", url, "--state-dir", str(tmp_path), *arguments], {})
        client = Marketplace(parsed.marketplace)
        stack.push_async_callback(client.close)
        intake = Intake([engine])
        node = Node(
            options=parsed,
            marketplace=client,
            intake=intake,
            engines=[engine],
            states=StateFile(tmp_path),
            drain=lambda wanted: made.drains.append(wanted),
        )
        made = Joining(node, intake, engine)
        return made

    return make


async def test_it_registers_with_its_hardware_and_models(joining: Start, marketplace: LinkServer) -> None:
    joined = await joining("--token", "sk-bob", "--name", "attic", "--region", "eu")
    await joined.node.join()
    assert marketplace.authorizations == ["Bearer sk-bob"]
    said = marketplace.registrations[0]
    assert {"gpu_info", "cpu_name", "cpu_core", "total_memory", "os_name"} <= said.keys()
    assert (said["model_name"], said["name"], said["region"], said["delivery"]) == (
        "m",
        "attic",
        "eu",
        "pull",
    )
    model = {"name": "m", "kinds": ["chat", "completion"], "context_length": 4096, "concurrency": 8}
    assert said["models"] == [model]
    assert len(said["machine_id"]) == 32


async def test_it_registers_with_email_and_password(joining: Start, marketplace: LinkServer) -> None:
    await (await joining("--email", "bob@example.com", "--password", "right")).node.join()
    assert marketplace.authorizations == ["Bearer token-of-bob"]


@pytest.mark.parametrize(
    "account", [["--token", "bad"], ["--email", "bob@example.com", "--password", "wrong"]]
)
async def test_it_says_why_it_cannot_join(joining: Start, account: list[str]) -> None:
    with pytest.raises(CannotJoin, match=r"Unknown token|Wrong e-mail"):
        await (await joining(*account)).node.join()


async def test_without_an_account_it_says_so_before_anything_else(joining: Start) -> None:
    with pytest.raises(CannotJoin, match="--token"):
        (await joining()).node.check()


async def test_a_restart_needs_no_new_registration(joining: Start, marketplace: LinkServer) -> None:
    await (await joining("--token", "sk-bob")).node.join()
    again = await joining()
    again.node.check()
    await again.node.join()
    await again.node.beat()
    assert len(marketplace.registrations) == len(marketplace.heartbeats) == 1


async def test_another_name_is_registered_anew_as_the_same_machine(
    joining: Start, marketplace: LinkServer
) -> None:
    await (await joining("--token", "sk-bob")).node.join()
    await (await joining("--token", "sk-bob", "--name", "cellar")).node.join()
    first, second = marketplace.registrations
    assert first["machine_id"] == second["machine_id"]


async def test_a_refused_token_leads_to_a_new_registration(joining: Start, marketplace: LinkServer) -> None:
    joined = await joining("--token", "sk-bob")
    await joined.node.join()
    marketplace.known_token = "another"
    await joined.node.beat()
    assert len(marketplace.registrations) == 2
    await joined.node.beat()
    assert joined.node.target()[1] == marketplace.known_token


async def test_without_an_account_a_refused_token_stays_refused(
    joining: Start, marketplace: LinkServer
) -> None:
    await (await joining("--token", "sk-bob")).node.join()
    joined = await joining()
    marketplace.known_token = "another"
    with pytest.raises(MarketplaceRefused, match="No node has this token"):
        await joined.node.beat()


async def test_a_heartbeat_carries_models_load_and_status(joining: Start, marketplace: LinkServer) -> None:
    joined = await joining("--token", "sk-bob")
    await joined.node.join()
    await joined.node.beat()
    beat = marketplace.heartbeats[0]
    assert (beat["status"], beat["active_requests"], beat["models"][0]["name"]) == ("online", 0, "m")
    assert beat["metrics"]["ram_used_mb"] > 0
    joined.intake.draining = True
    await joined.node.beat()
    assert marketplace.heartbeats[1]["status"] == "draining"


async def test_it_keeps_the_marketplaces_interval_and_says_changes_at_once(
    joining: Start, marketplace: LinkServer, stack: AsyncExitStack
) -> None:
    joined = await joining("--token", "sk-bob")
    marketplace.reply = {"heartbeat_interval_s": 60, "next_heartbeat_in": 60}
    await joined.node.join()
    beating = asyncio.create_task(joined.node.keep_beating())
    stack.callback(beating.cancel)
    await until(lambda: marketplace.heartbeats)
    await asyncio.sleep(0.1)
    assert len(marketplace.heartbeats) == 1
    joined.node.beat_soon()
    await until(lambda: len(marketplace.heartbeats) == 2)


async def test_it_backs_off_while_the_marketplace_is_away(
    joining: Start, marketplace: LinkServer, stack: AsyncExitStack
) -> None:
    joined = await joining("--token", "sk-bob")
    await joined.node.join()
    marketplace.failing = 3
    beating = asyncio.create_task(joined.node.keep_beating())
    stack.callback(beating.cancel)
    await until(lambda: marketplace.heartbeats)
    assert marketplace.failing == 0


async def test_it_shows_messages_once_and_states_when_they_change(
    joining: Start, marketplace: LinkServer, capsys: pytest.CaptureFixture[str]
) -> None:
    joined = await joining("--token", "sk-bob")
    marketplace.reply = {
        "messages": ["Update your driver."],
        "state": "pending",
        "reason": "Not approved yet.",
        "fix": "Wait.",
        "minimum_agent_version": "99.0.0",
    }
    await joined.node.join()
    await joined.node.beat()
    marketplace.reply["state"] = "online"
    await joined.node.beat()
    shown = capsys.readouterr().out
    assert shown.count("Update your driver.") == 1
    assert shown.count("pending: Not approved yet. Wait.") == 1
    assert shown.count("online: ") == 1
    assert shown.count("which wants 99.0.0") == 1


async def test_a_connection_that_is_only_being_made_is_no_news(
    joining: Start, marketplace: LinkServer, capsys: pytest.CaptureFixture[str]
) -> None:
    joined = await joining("--token", "sk-bob")
    marketplace.reply = {"state": "unreachable", "reason": "No connection."}
    await joined.node.join()
    assert "unreachable" not in capsys.readouterr().out
    await joined.node.beat()
    assert "unreachable: No connection." in capsys.readouterr().out


async def test_it_hears_of_a_drain(joining: Start, marketplace: LinkServer) -> None:
    joined = await joining("--token", "sk-bob")
    await joined.node.join()
    for wanted in (True, False):
        marketplace.reply = {"drain": wanted}
        await joined.node.beat()
    assert joined.drains == [True, False]


async def test_leaving_removes_the_node_and_what_was_remembered(
    joining: Start, marketplace: LinkServer, tmp_path: Path
) -> None:
    joined = await joining("--token", "sk-bob")
    await joined.node.join()
    await joined.node.leave()
    assert marketplace.known_token == ""
    assert not (tmp_path / "agent.json").exists()


async def test_a_marketplace_that_is_not_there_is_away(tmp_path: Path) -> None:
    client = Marketplace("http://127.0.0.1:9")
    with pytest.raises(MarketplaceAway, match="cannot be reached"):
        await client.login(email="a", password="b")
    await client.close()


@pytest.mark.parametrize(
    ("url", "told", "expected"),
    [
        ("http://m.example", "ws://m.example/x/", "ws://m.example/x/"),
        ("https://m.example/sub", "", "wss://m.example/sub/llm_models/connect/"),
        ("http://10.0.0.1:8000", "ws://localhost:8000/x/", "ws://10.0.0.1:8000/llm_models/connect/"),
        ("http://localhost:8000", "ws://localhost:8001/x/", "ws://localhost:8001/x/"),
    ],
)
def test_it_connects_where_it_can_reach_the_marketplace(url: str, told: str, expected: str) -> None:
    assert Marketplace(url).connect_url(told) == URL(expected)


def test_errors_of_all_shapes_become_sentences() -> None:
    assert said({"detail": "No."}) == "No."
    assert said({"error": {"code": "x", "message": "No."}}) == "No."
    assert said({"name": ["Too long.", "Too odd."]}) == "name: Too long. Too odd."


def test_waiting_grows_and_never_keeps_step() -> None:
    assert max(back_off(1) for _ in range(50)) <= 1
    assert 15 <= back_off(20) <= 30
    assert len({back_off(5) for _ in range(10)}) == 10
    assert version_tuple("0.10.0") > version_tuple("0.9.9")


async def test_prices_go_with_the_registration_and_are_not_repeated(
    joining: Start, marketplace: LinkServer
) -> None:
    joined = await joining("--token", "sk-bob", "--price-input", "0.2", "--price-hour", "1.5")
    await joined.node.join()
    await joined.node.beat()
    said = marketplace.registrations[0]
    assert (said["models"][0]["input_price"], said["hour_price"]) == ("0.2", "1.5")
    assert "output_price" not in said["models"][0]
    assert "input_price" not in marketplace.heartbeats[0]["models"][0]


async def test_another_price_is_told_once_without_an_account(joining: Start, marketplace: LinkServer) -> None:
    await (await joining("--token", "sk-bob", "--price-input", "0.2")).node.join()
    again = await joining("--price-input", "0.3", "--price-request", "0.001")
    await again.node.join()
    for _ in range(2):
        await again.node.beat()
    first, second = (beat["models"][0] for beat in marketplace.heartbeats)
    assert (first["input_price"], first["request_price"]) == ("0.3", "0.001")
    assert "input_price" not in second
    assert len(marketplace.registrations) == 1
    assert again.node.state.priced == {"m": {"input_price": "0.3", "request_price": "0.001"}}


async def test_a_price_that_is_refused_does_not_stop_the_heartbeats(
    joining: Start, marketplace: LinkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await joining("--token", "sk-bob")).node.join()
    dear = await joining("--price-output", "1000")
    await dear.node.join()
    heartbeat = Marketplace.heartbeat

    async def refuse(self: Marketplace, *, node_token: str, report: dict[str, Any]) -> dict[str, Any]:
        if any("output_price" in model for model in report["models"]):
            raise MarketplaceRefused(400, "at most 10 OMNIT")
        return await heartbeat(self, node_token=node_token, report=report)

    monkeypatch.setattr(Marketplace, "heartbeat", refuse)
    await dear.node.beat()
    await dear.node.beat()
    assert len(marketplace.heartbeats) == 1


@pytest.mark.parametrize("price", ["cheap", "-1", "1e3", "1,5", "٣"])
def test_a_price_is_a_decimal_number(price: str) -> None:
    with pytest.raises(options.WrongOption, match="--price-hour"):
        options.parse([f"--price-hour={price}"], {})


def test_prices_come_from_the_environment_too() -> None:
    parsed = options.parse([], {"AGENT_PRICE_OUTPUT": "0.5", "AGENT_PRICE_HOUR": "2"})
    assert (parsed.prices, parsed.hour_price) == ({"output_price": "0.5"}, "2")
