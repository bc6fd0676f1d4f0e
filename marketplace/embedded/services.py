"""PostgreSQL and Valkey for whoever needs them: those that the environment names, else our own."""

import os

from marketplace.embedded import postgres, valkey
from marketplace.embedded.home import Home, place_for_services
from marketplace.embedded.supervisor import Supervisor

START_WITHIN_S = 60


def start(supervisor: Supervisor, home: Home, *, durable: bool = True) -> dict[str, str]:
    """Start what `DATABASE_URL` and `REDIS_URL` do not replace, wait until it answers, return both URLs."""
    given = {name: os.environ[name] for name in ("DATABASE_URL", "REDIS_URL") if os.environ.get(name)}
    if len(given) == 2:
        return given
    place = place_for_services(home)
    if "DATABASE_URL" not in given:
        log = home.logs / "postgres.log"
        supervisor.start(postgres.program(place, log=log, durable=durable))
    if "REDIS_URL" not in given:
        supervisor.start(valkey.program(place, log=home.logs / "valkey.log"))
    supervisor.await_ready(within_s=START_WITHIN_S)
    if "DATABASE_URL" not in given:
        postgres.create_database(place)
    return {"DATABASE_URL": postgres.url(place), "REDIS_URL": valkey.url(place)} | given
