"""The marketplace's own programs: web processes, Celery worker, beat, and one provider's node."""

import os
import sys
from collections.abc import Mapping

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from gpus.protocol import MAX_MESSAGE
from marketplace.embedded.home import PROJECT, Home
from marketplace.embedded.listener import Listener
from marketplace.embedded.processes import Program

WORKER_ANSWERS_WITHIN_S = 1.0


def web(home: Home, listener: Listener, env: Mapping[str, str], *, number: int) -> Program:
    """One of several processes that accept from one socket.

    The socket is the supervisor's: when a process dies, another or its successor serves those who wait at it.
    """
    options = {
        "--fd": str(listener.fd),
        "--loop": "uvloop",
        "--http": "httptools",
        "--ws": "websockets-sansio",
        "--ws-max-size": str(MAX_MESSAGE),
        "--ws-per-message-deflate": "false",
        "--timeout-graceful-shutdown": "8",
    }
    arguments = [part for option in options.items() for part in option]
    return Program(
        name=f"web-{number}",
        argv=_python("uvicorn", "marketplace.asgi:application", *arguments, "--no-access-log"),
        # libuv otherwise lets one process accept whatever waits while the others idle.
        env={**env, "UV_TCP_SINGLE_ACCEPT": "1"},
        log=home.logs / f"web-{number}.log",
        cwd=PROJECT,
        ready=lambda child: child.said("Application startup complete"),
        pass_fds=[listener.fd],
    )


def worker(home: Home, env: Mapping[str, str]) -> Program:
    """The Celery worker for everything that is quick. Ready when it answers through the broker."""
    return _worker("worker", "default", home, env, threads=4, stop_within_s=10)


def trainer(home: Home, env: Mapping[str, str]) -> Program:
    """The Celery worker for fine-tuning: it trains here, and looks after trainings on nodes, a thread for each.

    When it is stopped, what it trains is written down first; the next one goes on from there.
    """
    return _worker("trainer", "finetune", home, env, threads=16, stop_within_s=30)


def chain_worker(home: Home, env: Mapping[str, str]) -> Program:
    """The Celery worker that reads chains and sends to them."""
    return _worker("chain", "chain", home, env, threads=8, stop_within_s=15)


def _worker(
    program: str, queue: str, home: Home, env: Mapping[str, str], *, threads: int, stop_within_s: float
) -> Program:
    name = f"{program}@{os.getpid()}"
    options = ["--pool", "threads", "--concurrency", str(threads), "--prefetch-multiplier", "1", "-Q", queue]
    quiet = ["-l", "WARNING", "--without-gossip", "--without-mingle"]
    return Program(
        name=program,
        argv=_python("celery", "-A", "marketplace", "worker", "-n", name, *options, *quiet),
        env=env,
        log=home.logs / f"{program}.log",
        cwd=PROJECT,
        ready=lambda child: _answers(name, env["REDIS_URL"]),
        stop_within_s=stop_within_s,
    )


def beat(home: Home, env: Mapping[str, str]) -> Program:
    """Celery's clock, which rings for the sweeps."""
    schedule = str(home.folder / "beat-schedule")
    return Program(
        name="beat",
        argv=_python("celery", "-A", "marketplace", "beat", "-l", "WARNING", "--pidfile=", "-s", schedule),
        env=env,
        log=home.logs / "beat.log",
        cwd=PROJECT,
        ready=lambda child: child.said("is starting"),
    )


def agent(home: Home, *, url: str, token: str) -> Program:
    """A provider's node on this machine, as anybody would start one elsewhere: it gets no secret of ours."""
    settings = {
        "AGENT_TOKEN": token,
        "AGENT_STATE_DIR": str(home.folder / "agent"),
        "AGENT_WHEN_DRAINED": "stay",
        "AGENT_DRAIN_TIMEOUT": "8",
        "AGENT_LOG_LEVEL": "INFO",
        "AGENT_PRICE_INPUT": "2",
        "AGENT_PRICE_OUTPUT": "6",
        "AGENT_TRAIN": "1",
        "AGENT_PRICE_TRAINING": "4",
        "MARKETPLACE_HOME": str(home.folder),
    }
    return Program(
        name="agent",
        argv=_python("gpus.agent", "--marketplace", url, "--name", "local-node"),
        env={**os.environ, **settings},
        log=home.logs / "agent.log",
        cwd=PROJECT,
        ready=lambda child: child.said("requests may come"),
        stop_within_s=15,
    )


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _answers(name: str, redis_url: str) -> bool:
    broker = Celery(broker=redis_url.replace("unix://", "redis+socket://", 1), set_as_current=False)
    try:
        asked = broker.control.inspect(destination=[name], timeout=WORKER_ANSWERS_WITHIN_S)
        return bool(asked.ping())
    except (OperationalError, redis.RedisError):
        return False
    finally:
        broker.close()
