"""Our own PostgreSQL and Valkey: they answer, keep what they hold, and never outlive their supervisor."""

import os
import shutil
import signal
from contextlib import closing
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis

from marketplace.embedded import services
from marketplace.embedded.home import Home, place_for_services
from marketplace.embedded.supervisor import Supervisor
from tests.embedded.conftest import eventually


def ask(url: str, statement: str) -> object:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None


def valkey(url: str) -> redis.Redis:
    return redis.Redis.from_url(url.replace("redis+socket://", "unix://"), decode_responses=True)


def test_they_come_back_with_their_data_after_a_kill(run):
    running = run()
    database, cache = running.url("DATABASE_URL"), running.url("REDIS_URL")
    ask(database, "CREATE TABLE kept AS SELECT 42 AS answer")
    with valkey(cache) as server:
        server.set("answer", 42)
    running.kill("postgres")
    running.kill("valkey")
    assert ask(database, "SELECT answer FROM kept") == 42
    with valkey(cache) as server:
        assert server.get("answer") == "42"
    printed = running.end()
    assert "postgres ended (SIGKILL) and answers again after" in printed
    assert "valkey ended (SIGKILL) and answers again after" in printed


def test_nothing_survives_a_killed_supervisor_and_the_next_one_finds_the_data(run):
    running = run()
    ask(running.url("DATABASE_URL"), "CREATE TABLE kept AS SELECT 42 AS answer")
    family = running.family()
    assert len(family) > 5  # PostgreSQL has processes of its own
    running.end(signal.SIGKILL)
    eventually(
        lambda: not any(process.is_running() and process.status() != "zombie" for process in family), 5
    )
    again = run()
    assert ask(again.url("DATABASE_URL"), "SELECT answer FROM kept") == 42


def test_stopping_in_order_leaves_nothing_behind(run, folder):
    running = run()
    family = running.family()
    running.end()
    assert running.process.returncode == 0
    assert not psutil.wait_procs(family, timeout=5)[1]
    assert not (folder / "state.json").exists()


def test_a_lock_file_whose_process_id_is_somebody_elses_does_not_keep_postgresql_from_starting(run, folder):
    running = run()
    running.end(signal.SIGKILL)
    data = place_for_services(Home(folder)).folder / "postgres"
    eventually(lambda: not postgres_runs_on(data))
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n")
    assert ask(run().url("DATABASE_URL"), "SELECT 1") == 1


def postgres_runs_on(data: Path) -> bool:
    return any(str(data) in (process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))


def test_a_long_path_with_spaces_works(run, folder):
    deep = folder / "a folder with spaces" / ("x" * 60) / ("ü" * 30)
    running = run(deep)
    try:
        assert ask(running.url("DATABASE_URL"), "SELECT lower('Ü')") == "ü"
        with valkey(running.url("REDIS_URL")) as server:
            assert server.ping()
    finally:
        running.end()
        shutil.rmtree(place_for_services(Home(deep)).sockets)  # outside of the home, since that is too long


def test_postgresql_is_durable_and_listens_on_no_port(run):
    running = run()
    database = running.url("DATABASE_URL")
    assert [ask(database, f"SHOW {name}") for name in ("fsync", "listen_addresses")] == ["on", ""]
    servers = [psutil.Process(pid) for pid in running.state()["children"].values()]
    assert len(servers) == 2
    assert [each.net_connections("inet") for each in servers] == [[], []]


def test_strangers_cannot_reach_the_sockets(run):
    place = place_for_services(Home(run().home))
    assert place.sockets.stat().st_mode & 0o077 == 0
    for name in (".s.PGSQL.5432", "valkey.sock"):
        assert (place.sockets / name).is_socket()


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root's homes can be closed to the user that runs PostgreSQL"
)
def test_root_s_closed_home_puts_data_and_programs_where_postgresql_may_go(run, folder):
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    place = place_for_services(Home(closed / "home"))
    assert place.folder.parent == Path("/var/lib/gpu-marketplace")
    try:
        assert ask(run(closed / "home").url("DATABASE_URL"), "SELECT 1") == 1
        assert (place.folder / "postgres").exists()
        assert not (closed / "home" / "postgres").exists()
    finally:
        shutil.rmtree(place.folder)


def test_given_urls_replace_them(folder, monkeypatch):
    given = {"DATABASE_URL": "postgresql://elsewhere/db", "REDIS_URL": "redis://elsewhere"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    supervisor = Supervisor(say=print)
    assert services.start(supervisor, Home(folder)) == given
    assert supervisor.kept == []
