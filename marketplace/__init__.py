"""The frame. Celery is loaded with it, so that `shared_task` finds its broker in every process."""

from marketplace.celery import app as celery_app

__all__ = ["celery_app"]
