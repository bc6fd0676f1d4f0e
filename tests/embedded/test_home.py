"""The folder that a marketplace lives in."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from marketplace.embedded.home import PROJECT, AlreadyRuns, Home, HomeUnusable, write_private


@pytest.fixture
def held(home: Home) -> Iterator[Home]:
    """A home in which somebody runs."""
    home.lock()
    yield home
    home.unlock()


def test_a_second_start_is_refused_and_told_who_runs_where(held):
    held.sign("process 4711, http://127.0.0.1:8123")
    with pytest.raises(AlreadyRuns, match=r"process 4711, http://127\.0\.0\.1:8123"):
        Home(held.folder).lock()


def test_the_command_refuses_a_second_start_with_one_line_and_status_1(held):
    command = [sys.executable, "-m", "marketplace.embedded", "--home", str(held.folder)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"process {os.getpid()}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_secret_is_made_once_and_nobody_else_can_read_it(home):
    secret = home.secret_key()
    assert len(secret) >= 50
    assert home.secret_key() == secret == Home(home.folder).secret_key()
    assert (home.folder / "secret").stat().st_mode & 0o777 == 0o600


def test_a_private_file_stays_private_when_it_is_written_again(folder):
    file = folder / "credentials.json"
    write_private(file, "one")
    file.chmod(0o644)
    write_private(file, "two")
    assert file.read_text() == "two"
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_is_remembered_outlives_the_run_and_a_damaged_file(home):
    home.remember("port", 8123)
    assert Home(home.folder).remembered("port") == 8123
    (home.folder / "remembered.json").write_text("{")
    assert home.remembered("port") is None


def test_a_folder_that_cannot_be_made_is_refused_with_a_hint(folder):
    (folder / "file").write_text("")
    with pytest.raises(HomeUnusable, match="MARKETPLACE_HOME"):
        Home(folder / "file" / "home")


def test_there_are_no_credentials_before_the_first_run(folder):
    command = [sys.executable, "-m", "marketplace.embedded", "credentials", "--home", str(folder)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "No marketplace has run" in done.stderr
