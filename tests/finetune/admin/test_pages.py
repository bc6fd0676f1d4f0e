"""Every page about fine-tuning: who sees it, that nothing is changed by it, and how many queries it takes."""

import re
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from finetune import deployments
from finetune.models import Dataset, Event, Job
from gpus.models import Node
from tests.finetune import made
from tests.finetune.admin.conftest import enter, text_of

PAGES = ["job", "dataset", "deployment", "attempt", "event", "checkpoint"]


@pytest.fixture
def everything(train: Any, attic: Node) -> dict[str, int]:
    """One row at least of each kind."""
    job: Job = train()
    assert job.result is not None
    deployment = deployments.start(job.result.model, now=timezone.now(), job=job)
    rows = {
        "job": job, "dataset": job.dataset, "deployment": deployment, "attempt": job.attempts.get(),
        "event": job.events.first(), "checkpoint": job.checkpoints.get(),
    }  # fmt: skip
    return {name: row.pk for name, row in rows.items()}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", PAGES)
def test_every_list_and_row_opens_and_shows_tokens_never_base_units(
    browser: Any, clerk: Any, everything: dict[str, int], name: str
) -> None:
    for path in ("", "?q=alice", "?q=1", "?q=💥", f"{everything[name]}/change/"):
        for who in (browser, clerk):
            page = text_of(who.get(f"/admin/finetune/{name}/{path}"))
            assert not re.search(
                r"\d{17}", re.sub(r"<script.*?</script>|[0-9a-f]{24,}", "", page, flags=re.S)
            )


@pytest.mark.parametrize("name", PAGES)
def test_a_row_is_neither_changed_nor_deleted_nor_added(
    browser: Any, everything: dict[str, int], name: str
) -> None:
    path = f"/admin/finetune/{name}"
    said = {"status": "succeeded", "price": "1", "reason": "x", "charged": "0"}
    assert browser.post(f"{path}/{everything[name]}/change/", said).status_code == 403
    assert browser.post(f"{path}/{everything[name]}/delete/", {"post": "yes"}).status_code == 403
    assert browser.get(f"{path}/add/").status_code == 403
    assert "delete_selected" not in text_of(browser.get(f"{path}/"))


@pytest.mark.parametrize("name", PAGES)
def test_who_has_no_permission_does_not_get_in(
    charlie: Any, alice: Any, everything: dict[str, int], name: str
) -> None:
    assert enter(alice).get(f"/admin/finetune/{name}/").status_code == 302
    charlie.is_staff = True
    charlie.save()
    for path in (f"/admin/finetune/{name}/", f"/admin/finetune/{name}/{everything[name]}/change/"):
        assert enter(charlie).get(path).status_code == 403
    assert f"/admin/finetune/{name}/" not in text_of(enter(charlie).get("/admin/"))


def test_the_sidebar_leads_to_them(browser: Any) -> None:
    page = text_of(browser.get("/admin/"))
    for name in ("job", "dataset", "deployment", "attempt"):
        assert f'href="/admin/finetune/{name}/"' in page


def test_lists_and_pages_take_few_queries_however_long(
    browser: Any, alice: Any, train: Any, django_assert_max_num_queries: Any
) -> None:
    for _ in range(12):
        job = train()
        deployments.start(job.result.model, name=job.uid.hex[:8], now=timezone.now(), job=job)
    Event.objects.bulk_create(
        Event(
            job=job, attempt=job.attempts.get(), kind="progress", message="x", data={"step": n, "loss": 1.5}
        )
        for n in range(3000)
    )
    rows = {"job": job, "dataset": Dataset.objects.first(), "deployment": job.deployments.get()}
    for name in PAGES:
        with django_assert_max_num_queries(16):
            text_of(browser.get(f"/admin/finetune/{name}/"))
    for name, row in rows.items():
        with django_assert_max_num_queries(32):
            page = text_of(browser.get(f"/admin/finetune/{name}/{row.pk}/change/"))  # type: ignore[union-attr]
        assert len(page) < 400_000


def test_lists_of_many_rows_count_nothing(browser: Any, train: Any) -> None:
    train()
    for name in PAGES:
        with CaptureQueriesContext(connection) as queries:
            browser.get(f"/admin/finetune/{name}/")
        counted = [
            q["sql"] for q in queries if "COUNT(" in q["sql"] and f'FROM "finetune_{name}"' in q["sql"]
        ]
        assert not counted


# --- Jobs ---------------------------------------------------------------------------------------------------


def test_a_job_shows_how_it_went(browser: Any, train: Any) -> None:
    job = train()
    page = text_of(browser.get(f"/admin/finetune/job/{job.pk}/change/"))
    assert "eval_loss (decides)" in page
    assert "-1.25 (-50.0%)" in page
    assert "The result is better than its base." in page
    assert page.count("<polyline") == 2
    assert "20 of 20" in page
    assert "100%" in page
    for shown in (
        "attic",
        "3 OMNIT",
        "0.3 OMNIT",
        "2.7 OMNIT",
        "Step 20/20",
        job.result.model.name,
        "2.0\xa0KB",
    ):
        assert shown in page, shown
    assert "One &lt;b&gt;GPU" in page
    assert "<b>GPU" not in page
    assert str(job.attempts.get().token) not in page
    assert "https://" not in re.sub(
        r'href="https://[^"]*"|<footer.*', "", page
    )  # nothing comes from elsewhere


def test_a_job_that_nobody_has_begun_has_a_page_too(browser: Any, alice: Any, toy: Any) -> None:
    job = made.job(alice)
    page = text_of(browser.get(f"/admin/finetune/job/{job.pk}/change/"))
    assert f"training:{job.pk}:1: 3 OMNIT" in page  # what is held
    assert "<polyline" not in page


@pytest.mark.parametrize(
    "data",
    [
        {"step": "x", "loss": None},
        {"step": True, "loss": 1},
        {},
        {"step": 3, "loss": 10**400},
        {"step": [], "loss": {}},
    ],
)
def test_whatever_a_node_has_said_there_is_a_page(browser: Any, train: Any, data: dict[str, Any]) -> None:
    job = train()
    attempt = job.attempts.get()
    for kind in ("progress", "evaluated"):
        Event.objects.create(job=job, attempt=attempt, kind=kind, message="?", data=data | {"metrics": data})
    Job.objects.filter(pk=job.pk).update(
        metrics={"before": 1, "after": {"x": "y"}}, progress=data | {"steps": -1}
    )
    assert "<polyline" in text_of(browser.get(f"/admin/finetune/job/{job.pk}/change/"))
    text_of(browser.get("/admin/finetune/job/"))


@pytest.mark.parametrize("how", ["uid", "hex", "openai", "pk", "owner", "email", "base"])
def test_a_job_is_found(browser: Any, train: Any, how: str) -> None:
    job, other = (
        train(),
        made.job(made.Client.objects.create_user("dora", "dora@example.com"), base=made.model(None, "o")),
    )
    terms = {
        "uid": str(job.uid), "hex": job.uid.hex, "openai": f"ftjob-{job.uid.hex}", "pk": job.pk, "owner": "alice",
        "email": "ALICE@example.com", "base": "toy",
    }  # fmt: skip
    page = text_of(browser.get("/admin/finetune/job/", {"q": terms[how]}))
    assert f"/job/{job.pk}/change/" in page
    assert f"/job/{other.pk}/change/" not in page


# --- Datasets -------------------------------------------------------------------------------------------------


def test_a_dataset_shows_its_errors_with_what_to_do(browser: Any, alice: Any) -> None:
    errors = [
        {
            "line": 3,
            "field": "messages[0].role",
            "message": "<i>Unknown</i> role.",
            "fix": "Say user or assistant.",
        },
        *({"line": n, "field": "", "message": "Empty.", "fix": "Leave it out."} for n in range(4, 150)),
    ]
    bad = made.dataset(alice, status="invalid", errors=errors, error_count=900, summary={}, rows=None)
    page = text_of(browser.get(f"/admin/finetune/dataset/{bad.pk}/change/"))
    for shown in (
        "messages[0].role",
        "&lt;i&gt;Unknown&lt;/i&gt; role.",
        "Say user or assistant.",
        "100 of 900",
    ):
        assert shown in page


def test_a_dataset_is_downloaded_with_a_reason_and_the_permission(
    browser: Any, clerk: Any, alice: Any, tmp_path: Any
) -> None:
    from clients import files
    from tests.finetune.admin.conftest import audited

    mine = made.dataset(alice, blob=files.keep_all([b'{"text": "a secret"}\n'], limit=1000))
    path = f"/admin/finetune/dataset/{mine.pk}/download/"
    assert path in text_of(browser.get(f"/admin/finetune/dataset/{mine.pk}/change/"))
    assert 'name="reason"' in text_of(browser.get(path))
    assert audited() == []
    reply = browser.post(path, {"reason": "She asked for help."})
    assert b"".join(reply.streaming_content) == b'{"text": "a secret"}\n'
    assert reply["Content-Disposition"] == 'attachment; filename="questions.jsonl"'
    assert audited() == [("download_dataset", "She asked for help.")]
    assert clerk.post(path, {"reason": "I am curious."}).status_code == 403
    assert path not in text_of(clerk.get(f"/admin/finetune/dataset/{mine.pk}/change/"))


def test_a_deleted_dataset_is_not_downloaded(browser: Any, alice: Any) -> None:
    gone = made.dataset(alice, blob=None, deleted_at=timezone.now())
    page = browser.post(f"/admin/finetune/dataset/{gone.pk}/download/", {"reason": "x"}, follow=True)
    assert "was deleted" in text_of(page)
