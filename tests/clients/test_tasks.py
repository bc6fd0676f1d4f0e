"""clients.tasks"""

from datetime import timedelta

from django.utils import timezone

from clients import devices, tasks
from clients.models import Token
from marketplace.celery import SWEEPS, app


def test_expired_tokens_are_swept_and_no_others(alice):
    now = timezone.now()
    devices.log_in(alice, ip=None, user_agent="old", now=now - timedelta(days=31))
    devices.log_in(alice, ip=None, user_agent="new", now=now)
    assert tasks.sweep_tokens() == 1
    assert Token.objects.get().user_agent == "new"


def test_beat_rings_for_tasks_that_exist():
    app.loader.import_default_modules()
    assert set(SWEEPS) <= set(app.tasks)
