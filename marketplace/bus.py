"""Messages between the processes of one marketplace, over Valkey's publish/subscribe.

A message may be lost (a restart of Valkey, a process that is not there); nothing may depend on its arrival but speed.
What is true stands in rows.
"""

import logging

import redis
from django.conf import settings

logger = logging.getLogger(__name__)

PREFIX = "marketplace:"

_pool: redis.Redis | None = None


def announce(topic: str, payload: str) -> None:
    """Tell every process that listens to `topic`. For synchronous code; never raises."""
    global _pool
    if _pool is None:
        _pool = redis.Redis.from_url(settings.CACHE_URL, socket_connect_timeout=1, socket_timeout=1)
    try:
        _pool.publish(PREFIX + topic, payload)
    except redis.RedisError as error:
        logger.warning("Could not announce %s %s: %s", topic, payload, error)
