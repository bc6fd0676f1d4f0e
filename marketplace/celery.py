"""The Celery application. Tasks live in each app's `tasks` module."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")

app = Celery("marketplace")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

# What beat rings for, and every how many seconds. A message that nobody has taken by the next one is not wanted.
SWEEPS = {
    "gpus.tasks.sweep_nodes": 5,
    "gpus.tasks.sweep_leases": 10,
    "gpus.tasks.sweep_gateways": 60,
    "inference.tasks.sweep_inferences": 5,
    "inference.tasks.sweep_catalogue": 10,
    "inference.tasks.sweep_claims": 5,
    "inference.tasks.sweep_hostings": 3,
    "inference.tasks.seal_receipts": 30,
    "inference.tasks.sweep_demand": 3600,
    "clients.tasks.sweep_replies": 300,
    "clients.tasks.sweep_uploads": 300,
    "clients.tasks.sweep_files": 300,
    "clients.tasks.sweep_tokens": 3600,
    "finetune.tasks.move_deployments": 2,
    "finetune.tasks.sweep_jobs": 5,
    "finetune.tasks.sweep_datasets": 30,
    "chain.tasks.follow_networks": 1,
    "chain.tasks.send_transactions": 1,
    "chain.tasks.advance_fulfilments": 1,
    "chain.tasks.settle_orders": 2,
    "chain.tasks.publish_roots": 30,
    "chain.tasks.reconcile": 600,
    "chain.tasks.sweep_pins": 3600,
}
app.conf.beat_schedule = {
    task: {"task": task, "schedule": float(every_s), "options": {"expires": every_s}}
    for task, every_s in SWEEPS.items()
}
