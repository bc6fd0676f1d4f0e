"""The marketplace under test: PostgreSQL and Valkey as in the embedded run, one web process, worker and beat.

    python -m benchmarks.market HOME [--no-fsync]

Prints one line of JSON when it answers: its address, the web process's id, and the environment that
its programs run in. Stays until SIGTERM. `DATABASE_URL` and `REDIS_URL` replace the services, as everywhere.
"""

import os
import sys
from functools import partial
from pathlib import Path

import orjson

from marketplace.embedded import programs, services
from marketplace.embedded.home import PROJECT, AlreadyRuns, Home, HomeUnusable
from marketplace.embedded.listener import Listener
from marketplace.embedded.local import DEMO_SETTINGS
from marketplace.embedded.supervisor import Interrupted, StartFailed, Supervisor

READY_WITHIN_S = 60


def start(supervisor: Supervisor, home: Home, listener: Listener, *, durable: bool) -> dict[str, object]:
    """Bring all parts up. What the line of JSON says."""
    settings = {
        "SECRET_KEY": home.secret_key(),
        "PUBLIC_URL": listener.local_url,
        "MARKETPLACE_HOME": str(home.folder),
        "DJANGO_SETTINGS_MODULE": "marketplace.settings",
    }
    environment = {
        **os.environ,
        **DEMO_SETTINGS,
        **settings,
        **services.start(supervisor, home, durable=durable),
    }
    migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    if supervisor.run(migrate, env=environment, cwd=PROJECT) != 0:
        raise StartFailed("The database could not be migrated.")
    for program in (
        programs.web(home, listener, environment, number=1),
        programs.worker(home, environment),
        programs.beat(home, environment),
    ):
        supervisor.start(program)
    supervisor.await_ready("web-1", "worker", "beat", within_s=READY_WITHIN_S)
    web = next(kept.child.process.pid for kept in supervisor.kept if kept.program.name == "web-1")
    return {"url": listener.local_url, "web": web, "environment": environment}


def main() -> int:
    home = Home(Path(sys.argv[1]))
    supervisor = Supervisor(say=partial(print, file=sys.stderr, flush=True), state_file=home.state)
    try:
        home.lock()
        supervisor.catch_signals()
        listener = Listener(home)  # the web process's successor would need it, so it stays open
        sys.stdout.buffer.write(
            orjson.dumps(start(supervisor, home, listener, durable="--no-fsync" not in sys.argv)) + b"\n"
        )
        sys.stdout.flush()
        supervisor.until(lambda: False)
    except (AlreadyRuns, HomeUnusable, StartFailed) as error:
        print(error, file=sys.stderr)
        return 1
    except Interrupted:
        return 0
    finally:
        supervisor.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
