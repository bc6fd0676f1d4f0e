"""Models that jobs have started from, or made, can be deleted once nothing goes on with them."""

from typing import Any

import pytest
from django.utils import timezone

from finetune import jobs
from finetune.quotes import NotTrainable
from inference.models import RevisionFile
from tests.finetune import made


def test_a_model_is_kept_while_a_job_is_trained_from_it(api: Any, alice: Any) -> None:
    base = made.model(alice, "alice/base")
    job = made.job(alice, base=base)
    refused = api(alice).delete("/ai/models/alice/base")
    assert refused.status_code == 409
    assert str(job.uid) in refused.json()["error"]["message"]


def test_afterwards_it_can_be_deleted_and_the_job_still_says_what_it_was(api: Any, alice: Any) -> None:
    base = made.model(alice, "alice/base")
    job = made.job(alice, base=base)
    jobs.cancel(job, now=timezone.now())
    assert api(alice).delete("/ai/models/alice/base").status_code == 204
    assert not RevisionFile.objects.filter(revision__model=base).exists()
    said = api(alice).get(f"/v1/fine_tuning/jobs/ftjob-{job.uid.hex}").json()
    assert said["model"] == f"alice/base (deleted {base.pk})"
    again = api(alice).put(f"/fine-tuning/task/{job.uid.hex}/restart")
    assert again.status_code == 400
    # The name is free again.
    assert made.model(alice, "alice/base").pk != base.pk


def test_a_job_does_not_begin_from_a_model_that_was_just_deleted(api: Any, alice: Any) -> None:
    base = made.model(alice, "alice/base")
    made.job(alice, base=base)
    RevisionFile.objects.filter(revision__model=base).delete()
    with pytest.raises(NotTrainable):
        made.job(alice, base=base)
