"""What operators see and do about models that the marketplace keeps."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client as Browser
from django.utils import timezone

from gpus.models import Node
from inference import hosting
from inference.models import Hosting, Model
from tests.inference.test_hosting import add, revision  # noqa: F401 - a fixture

pytestmark = pytest.mark.django_db
MODELS, HOSTINGS = "/admin/inference/model/", "/admin/inference/hosting/"


@pytest.fixture
def browser(operator: Any) -> Browser:
    found = Browser()
    found.force_login(operator)
    return found


@pytest.fixture
def model(alice: Any) -> Model:
    found = Model.objects.create(name="alice/tiny", owner=alice)
    revision(found)
    return found


@pytest.fixture
def node(add: Callable[..., Node]) -> Node:  # noqa: F811 - that fixture
    return add("one", bases=["llama"])


def do(browser: Browser, page: str, action: str, *rows: Any) -> str:
    said = {"action": action, "_selected_action": [row.pk for row in rows]}
    return browser.post(page, said, follow=True).content.decode()


def test_a_model_is_hosted_and_let_go(browser: Browser, model: Model, node: Node) -> None:
    assert "one was asked to serve it" in do(browser, MODELS, "host", model)
    assert "no node serves it yet" in browser.get(MODELS).content.decode()
    assert "1 nodes let go of it" in do(browser, MODELS, "stop_hosting", model)
    assert not Hosting.objects.exists()


def test_what_has_no_files_cannot_be_hosted(browser: Browser) -> None:
    assert "keeps no files" in do(browser, MODELS, "host", Model.objects.create(name="llama"))


def test_publishing(browser: Browser, model: Model) -> None:
    do(browser, MODELS, "publish", model)
    model.refresh_from_db()
    assert model.published_at is not None
    do(browser, MODELS, "take_back", model)
    model.refresh_from_db()
    assert model.published_at is None


def test_files_and_hostings_are_shown_with_their_reasons(browser: Browser, model: Model, node: Node) -> None:
    hosting.want(model, now=timezone.now())
    Hosting.objects.update(state="failed", reason="It is out of memory.")
    for page in (HOSTINGS, f"{MODELS}{model.pk}/change/"):
        assert "It is out of memory." in browser.get(page).content.decode()
    page = browser.get(f"/admin/inference/revision/{model.revision_id}/change/").content.decode()
    assert "model.safetensors" in page
    assert browser.get("/admin/inference/revision/", {"q": "alice"}).status_code == 200
    page = browser.get(f"/admin/gpus/node/{node.pk}/change/").content.decode()
    assert model.name in page


def test_a_model_is_moved_from_a_node(
    browser: Browser,
    model: Model,
    node: Node,
    add: Callable[..., Node],  # noqa: F811 - that fixture
) -> None:
    row = hosting.want(model, now=timezone.now())
    add("two")
    assert "is taken from one; two was asked" in do(browser, HOSTINGS, "move_away", row)


def test_a_model_in_use_is_not_deleted(browser: Browser, model: Model, alice: Any) -> None:
    Model.objects.create(name="live", owner=alice, is_alias=True, target=model)
    said = {"action": "delete_selected", "_selected_action": [model.pk], "post": "yes"}
    assert "stands for" in browser.post(MODELS, said, follow=True).content.decode()
    Model.objects.filter(name="live").delete()
    browser.post(MODELS, said, follow=True)
    assert not Model.objects.exists()
