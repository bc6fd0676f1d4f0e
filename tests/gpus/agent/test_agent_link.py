"""The agent's connection: many exchanges at once, credit, cancelling, and what happens when it breaks."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from gpus import protocol
from gpus.protocol import Kind
from tests.gpus.agent.fakes import USAGE, LinkServer, ModelServer, until

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
Start = Callable[..., Any]


async def test_it_answers_a_request(pulled: Start, marketplace: LinkServer) -> None:
    await pulled()
    answer = await marketplace.over(await marketplace.ask(CHAT))
    assert answer.head == {"status": 200, "content_type": "application/json; charset=utf-8"}
    assert b'"one two three"' in answer.body
    assert answer.end == {"usage": USAGE, "usage_source": "engine"}


async def test_it_streams_as_the_engine_does(
    pulled: Start, marketplace: LinkServer, models: ModelServer
) -> None:
    models.pause_s = 0.05
    await pulled()
    number = await marketplace.ask(CHAT | {"stream": True})
    answer = await marketplace.over(number)
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert [kind for each, kind in marketplace.order if each == number].count(Kind.BODY) >= 3
    assert answer.end == {"usage": USAGE, "usage_source": "engine"}


async def test_many_answers_interleave(pulled: Start, marketplace: LinkServer, models: ModelServer) -> None:
    models.pause_s, models.words = 0.02, [f"{n} " for n in range(10)]
    await pulled(concurrency=32)
    numbers = [await marketplace.ask(CHAT | {"stream": True}) for _ in range(32)]
    for number in numbers:
        answer = await marketplace.over(number)
        words = [answer.body.index(f'"{n} "'.encode()) for n in range(10)]
        assert words == sorted(words)
    bodies = [number for number, kind in marketplace.order if kind == Kind.BODY]
    assert bodies[:64] != sorted(bodies[:64])


async def test_what_is_written_in_one_turn_leaves_as_one_message(
    pulled: Start, marketplace: LinkServer
) -> None:
    await pulled()
    await marketplace.over(await marketplace.ask(CHAT))
    before = marketplace.messages
    await marketplace.over(await marketplace.ask(CHAT))
    assert marketplace.messages - before <= 2  # three frames


async def test_it_stops_sending_when_the_credit_is_used_up(
    pulled: Start, marketplace: LinkServer, models: ModelServer
) -> None:
    models.body = bytes(range(256)) * 4096  # 1 MiB
    marketplace.gives_credit = False
    await pulled()
    number = await marketplace.ask(CHAT)
    answer = marketplace.answers[number]
    await until(lambda: len(answer.body) == protocol.WINDOW)
    await asyncio.sleep(0.1)
    assert len(answer.body) == protocol.WINDOW
    await marketplace.sockets[-1].send_bytes(protocol.encode_credit(number, 1000))
    await until(lambda: len(answer.body) == protocol.WINDOW + 1000)
    await marketplace.sockets[-1].send_bytes(protocol.encode_credit(number, 2**20))
    assert (await marketplace.over(number)).body == models.body


async def test_a_stuck_answer_does_not_hold_up_the_others(
    pulled: Start, marketplace: LinkServer, models: ModelServer
) -> None:
    models.body = bytes(2**20)
    marketplace.gives_credit = False
    await pulled()
    stuck = await marketplace.ask(CHAT)
    await until(lambda: len(marketplace.answers[stuck].body) == protocol.WINDOW)
    models.body = None
    assert (await marketplace.over(await marketplace.ask(CHAT))).end is not None


async def test_cancelling_stops_the_engine_and_tells_what_was_used(
    pulled: Start, marketplace: LinkServer, models: ModelServer
) -> None:
    models.words, models.pause_s = ["word "] * 1000, 0.02
    node = await pulled()
    number = await marketplace.ask(CHAT | {"stream": True})
    await until(lambda: marketplace.answers[number].body.count(b"data:") >= 5)
    began = time.monotonic()
    await marketplace.send(number, Kind.CANCEL)
    answer = await marketplace.over(number)
    await until(lambda: models.abandoned == 1)
    assert time.monotonic() - began < 1
    assert answer.end is not None
    assert answer.end["usage_source"] == "estimate"
    delivered = answer.body.count(b"word ")
    assert delivered <= answer.end["usage"]["completion_tokens"] * 1.0 <= 2 * delivered + 2
    assert node.intake.active == 0


async def test_a_request_can_be_cancelled_before_the_engine_answers(
    pulled: Start, marketplace: LinkServer, models: ModelServer
) -> None:
    models.gate = asyncio.Event()
    await pulled()
    number = await marketplace.ask(CHAT)
    await until(lambda: models.running == 1)
    await marketplace.send(number, Kind.CANCEL)
    await marketplace.send(number, Kind.CANCEL)
    answer = await marketplace.over(number)
    assert (answer.head, answer.end) == (None, {"usage": None, "usage_source": "estimate"})
    await until(lambda: models.abandoned == 1)


async def test_it_is_busy_beyond_its_slots_and_its_queue(
    pulled: Start, marketplace: LinkServer, models: ModelServer
) -> None:
    models.gate = asyncio.Event()
    await pulled(concurrency=2)
    numbers = [await marketplace.ask(CHAT) for _ in range(5)]
    answer = await marketplace.over(numbers[-1])
    assert answer.error is not None
    assert answer.error["code"] == "busy"
    await until(lambda: models.running == 2)
    models.gate.set()
    for number in numbers[:-1]:
        assert (await marketplace.over(number)).end is not None


async def test_a_cancelled_request_leaves_the_queue(
    pulled: Start, marketplace: LinkServer, models: ModelServer
) -> None:
    models.gate = asyncio.Event()
    node = await pulled(concurrency=1)
    first, second = await marketplace.ask(CHAT), await marketplace.ask(CHAT)
    await until(lambda: models.running == 1)
    await marketplace.send(second, Kind.CANCEL)
    await marketplace.over(second)
    third = await marketplace.ask(CHAT)
    models.gate.set()
    assert (await marketplace.over(first)).end
    assert (await marketplace.over(third)).end
    assert len(models.requests) == 2
    assert node.intake.active == 0


async def test_an_unknown_model_is_refused(pulled: Start, marketplace: LinkServer) -> None:
    await pulled()
    answer = await marketplace.over(await marketplace.ask(CHAT | {"model": "other"}))
    assert answer.error == {
        "code": "no_such_model",
        "message": "This node does not serve 'other' at the moment.",
    }


async def test_a_draining_node_takes_nothing_new(pulled: Start, marketplace: LinkServer) -> None:
    node = await pulled()
    node.intake.draining = True
    answer = await marketplace.over(await marketplace.ask(CHAT))
    assert answer.error is not None
    assert answer.error["code"] == "draining"


async def test_what_is_no_request_gets_an_error_of_the_api(pulled: Start, marketplace: LinkServer) -> None:
    await pulled()
    nonsense = await marketplace.over(await marketplace.ask(b"no json"))
    assert nonsense.head is not None
    assert nonsense.head["status"] == 400
    elsewhere = await marketplace.over(await marketplace.ask(CHAT, path="/v1/images"))
    assert elsewhere.head is not None
    assert elsewhere.head["status"] == 404


async def test_the_deadline_holds_at_the_agent_too(
    pulled: Start, marketplace: LinkServer, models: ModelServer
) -> None:
    models.gate = asyncio.Event()
    await pulled()
    answer = await marketplace.over(await marketplace.ask(CHAT, deadline_s=0.1))
    assert answer.error == {"code": "engine_failed", "message": "The deadline of 0.1 s has passed."}
    await until(lambda: models.abandoned == 1)


async def test_it_answers_pings(pulled: Start, marketplace: LinkServer) -> None:
    await pulled()
    await marketplace.send(0, Kind.PING)
    await until(lambda: marketplace.pongs == 1)


async def test_it_connects_again_and_stops_what_ran_for_the_lost_connection(
    pulled: Start, marketplace: LinkServer, models: ModelServer
) -> None:
    models.words, models.pause_s = ["word "] * 1000, 0.02
    node = await pulled()
    number = await marketplace.ask(CHAT | {"stream": True})
    await until(lambda: marketplace.answers[number].body)
    await marketplace.sockets[-1].close()
    await until(lambda: len(marketplace.sockets) == 2, within_s=2)
    await until(lambda: models.abandoned == 1)
    assert node.intake.active == 0
    models.words = ["fine"]
    assert (await marketplace.over(await marketplace.ask(CHAT))).end


async def test_it_hangs_up_on_a_marketplace_that_breaks_the_protocol(
    pulled: Start, marketplace: LinkServer
) -> None:
    await pulled()
    await marketplace.sockets[-1].send_bytes(b"\0\0\0")
    await until(lambda: len(marketplace.sockets) == 2)


async def test_it_hangs_up_on_a_silent_marketplace(
    pulled: Start, marketplace: LinkServer, monkeypatch: Any
) -> None:
    monkeypatch.setattr("gpus.agent.link.DEAD_AFTER_S", 0.2)
    monkeypatch.setattr("gpus.agent.link.PING_EVERY_S", 0.1)
    monkeypatch.setattr(marketplace, "_frame", lambda *_arguments: asyncio.sleep(0))
    await pulled()
    await until(lambda: len(marketplace.sockets) == 2)


async def test_it_tells_when_its_token_is_refused(pulled: Start, marketplace: LinkServer) -> None:
    marketplace.refuse_link = 401
    node = await pulled()
    await until(lambda: node.refusals >= 2)
    marketplace.refuse_link = None
    await asyncio.wait_for(marketplace.connected.wait(), 5)


async def test_the_marketplace_can_ask_it_to_drain(pulled: Start, marketplace: LinkServer) -> None:
    node = await pulled()
    await marketplace.sockets[-1].send_str('{"type": "drain"}')
    await until(lambda: node.drains == 1)


async def test_it_does_not_fight_with_another_agent_of_the_same_node(
    pulled: Start, marketplace: LinkServer
) -> None:
    await pulled()
    await marketplace.sockets[-1].send_str('{"type": "bye"}')
    await marketplace.sockets[-1].close()
    await asyncio.sleep(0.4)
    assert len(marketplace.sockets) == 1
