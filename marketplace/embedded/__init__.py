"""A whole marketplace on one machine, without set-up: `python -m marketplace.embedded`, or `scripts/run`.

One supervisor starts PostgreSQL, Valkey, the web processes, a Celery worker, beat and a provider's node, and
starts again what dies. Only `prepare` needs Django's settings; it runs as a process of its own.
"""
