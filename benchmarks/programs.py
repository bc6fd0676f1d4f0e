"""Child processes of a run: started on this machine, watched, and gone when the run is."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.calls import Caller
from benchmarks.load import LoadError

ROOT = Path(__file__).parent.parent
READY_WITHIN_S = 90
STOP_WITHIN_S = 30
_PR_SET_PDEATHSIG = 1


class StandError(Exception):
    """A part of the stand did not start, or ended by itself. The message says which, and its last words."""


@dataclass(slots=True)
class Program:
    """A child process, and the file that holds what it says."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    async def first_line(self) -> bytes:
        """The first line on its standard output, if that is a pipe. Raises StandError if it ends before."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise StandError(f"{self.name} did not start:\n{self.last_words()}")
        return line.strip()

    async def until_ready(self, url: str, path: str) -> None:
        """Wait until `path` answers 200. Raises StandError if the program ends or takes too long."""
        for _ in range(READY_WITHIN_S * 5):
            self.check_alive()
            with contextlib.suppress(OSError, LoadError):
                async with Caller(url) as caller:
                    if (await caller.get(path))[0] == 200:
                        return
            await asyncio.sleep(0.2)
        raise StandError(f"{self.name} was not ready within {READY_WITHIN_S} seconds:\n{self.last_words()}")

    def check_alive(self) -> None:
        if self.process.returncode is not None:
            raise StandError(f"{self.name} ended with {self.process.returncode}:\n{self.last_words()}")

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


@dataclass(slots=True)
class Programs:
    """The child processes of one run, with their logs in one folder. `tasks` run beside them."""

    logs: Path
    started: list[Program] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(
        self,
        name: str,
        *command: str,
        environment: Mapping[str, str] | None = None,
        speaks: bool = False,
    ) -> Program:
        """Start a program that ends with this process, however this process ends.

        What it says goes to its log; `speaks` keeps its standard output apart, as a pipe.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=ROOT,
                env=changed(environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if speaks else output,
                stderr=output,
                preexec_fn=_die_with_parent,
                limit=2**20,
            )
        program = Program(name, process, log)
        self.started.append(program)
        return program

    def check_alive(self) -> None:
        """Raise what a task has failed with, or StandError if a program has ended."""
        for program in self.started:
            program.check_alive()
        for task in self.tasks:
            if task.done():
                task.result()

    async def while_alive(self, work: asyncio.Future[Any]) -> None:
        """Wait for `work`; cancel it and raise as soon as a program ends or a task fails."""
        ends = [asyncio.ensure_future(program.process.wait()) for program in self.started]
        try:
            await asyncio.wait([work, *ends, *self.tasks], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.check_alive()
        finally:
            for each in (work, *ends):
                each.cancel()
            await asyncio.gather(work, *ends, return_exceptions=True)
        work.result()

    async def stop(self) -> None:
        """Stop everything, the last started first."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        while self.started:
            await self.started.pop().stop()


@contextlib.asynccontextmanager
async def running(logs: Path) -> AsyncIterator[Programs]:
    """Programs that are stopped at the end, also on Ctrl-C and SIGTERM."""
    _allow_many_connections()
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    programs = Programs(logs)
    try:
        yield programs
    finally:
        await programs.stop()


# For programs that need the models' code, but no row.
_NO_SERVICES: Mapping[str, str] = {
    "DJANGO_SETTINGS_MODULE": "marketplace.settings",
    "SECRET_KEY": "x" * 50,
    "DATABASE_URL": "postgresql://localhost/none",
    "REDIS_URL": "redis://localhost/0",
}


async def django_program(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> bytes:
    """Run `main` of a module that needs Django, in a process of its own; what it prints."""
    code = f"import django; django.setup(); import {module} as program; program.main()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments,
        cwd=ROOT,
        env=changed({**_NO_SERVICES, **(environment or {})}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    if process.returncode:
        raise StandError(f"{module} {' '.join(arguments)} failed:\n{errors.decode()[-2000:]}")
    return output


def changed(changes: Mapping[str, str] | None) -> dict[str, str]:
    """This process's environment with changes; an empty value takes a variable away."""
    return {name: value for name, value in {**os.environ, **(changes or {})}.items() if value}


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _allow_many_connections() -> None:
    """Raise this process's limit of open files as far as it may; children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
