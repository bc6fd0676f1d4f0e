"""POST /file/create and GET /ipfs/{cid}: small files under the name of their content, for everybody."""

from datetime import timedelta
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone

from chain import pins
from chain.models import Pin, TaskStatus
from clients.models import Blob
from marketplace import bodies, storage

pytestmark = pytest.mark.django_db
NOW = timezone.now()
# Of other programs: `ipfs add --cid-version=1`, and the specification's own examples.
VECTORS = {
    b"hello world": "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e",
    b"": "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
    b"hello\n": "bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am",
}


def leave(
    client: Any, content: bytes = b"{}", name: str = "taskConfig.json", kind: str = "application/json"
) -> Any:
    file = SimpleUploadedFile(name, content, content_type=kind)
    return client.post("/file/create", {"file": file}, format="multipart")


def body(answer: Any) -> bytes:
    return b"".join(answer.streaming_content) if answer.streaming else answer.content


def read(client: Any, cid: str, **headers: Any) -> tuple[Any, bytes]:
    answer = client.get(f"/ipfs/{cid}", **headers)
    return answer, body(answer)


@pytest.mark.parametrize(("content", "cid"), VECTORS.items())
def test_the_names_are_those_that_ipfs_gives(content, cid):
    assert pins.cid_of(content) == cid


def test_anybody_leaves_a_file_and_everybody_reads_it(api, settings):
    reply = leave(api(), b'{"function_name": "f", "data": {}}')

    assert reply.status_code == 201
    said = reply.json()
    assert said == {"link": f"{settings.PUBLIC_URL}/ipfs/{said['cid']}", "cid": said["cid"], "size": 34}
    found, content = read(api(), said["cid"])
    assert (found.status_code, content) == (200, b'{"function_name": "f", "data": {}}')
    assert found["Content-Type"] == "application/json"
    assert found["Cache-Control"] == "public, max-age=31536000, immutable"
    assert found["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in found["Content-Security-Policy"]


def test_both_spellings_of_the_paths_answer(api):
    file = SimpleUploadedFile("a", b"x")
    reply = api().post("/file/create/", {"file": file}, format="multipart")

    assert reply.status_code == 201
    assert body(api().get(f"/ipfs/{reply.json()['cid']}/")) == b"x"


def test_the_same_content_is_one_file(api):
    first, second = leave(api(), b"same"), leave(api(), b"same", name="other.txt", kind="text/plain")

    assert first.json() == second.json()
    assert (Pin.objects.count(), Blob.objects.count()) == (1, 1)


def test_head_range_and_etag(api):
    cid = leave(api(), b"0123456789").json()["cid"]
    head = api().head(f"/ipfs/{cid}")
    assert (head.status_code, head["Content-Length"], body(head)) == (200, "10", b"")
    part, content = read(api(), cid, HTTP_RANGE="bytes=2-4")
    assert (part.status_code, content, part["Content-Range"]) == (206, b"234", "bytes 2-4/10")
    again = api().get(f"/ipfs/{cid}", HTTP_IF_NONE_MATCH=head["ETag"])
    assert (again.status_code, again["Cache-Control"]) == (304, head["Cache-Control"])
    assert api().get(f"/ipfs/{cid}", HTTP_RANGE="bytes=10-").status_code == 416


@pytest.mark.parametrize(
    "kind", ["text/html", "image/svg+xml", "application/xhtml+xml", "text/xml", "", "x" * 300]
)
def test_what_could_act_on_this_origin_is_only_a_download(api, kind):
    cid = leave(api(), b"<script>alert(1)</script>", name="a.html", kind=kind).json()["cid"]
    found, _ = read(api(), cid)

    assert found["Content-Type"] == "application/octet-stream"
    assert found["Content-Disposition"].startswith("attachment")
    assert found["Content-Security-Policy"] == "default-src 'none'; sandbox"


@pytest.mark.parametrize(
    "cid",
    ["x", pins.cid_of(b"nobody has left this"), "bafkrei", "QmT5NvUtoM5nWFfrQdVrFtvGfKFmG7AHE8P34isapyhCxX", "%00",
     "BAFKREIFZJUT3TE2NHYEKKLSS27NH3K72YSCO7Y32KOAO5EEI66WOF36N5E"],
)  # fmt: skip
def test_what_nobody_has_left_is_not_found(api, cid):
    reply = api().get(f"/ipfs/{cid}")

    assert reply.status_code == 404
    assert reply.json()["code"] in ("unknown_cid", "not_found")


def test_a_file_that_is_too_large_is_refused_with_the_limit(api, settings):
    settings.PIN_MAX_BYTES = 1024
    assert leave(api(), b"x" * 1024).status_code == 201
    reply = leave(api(), b"x" * 1025)
    assert (reply.status_code, reply.json()["code"]) == (413, "file_too_large")
    assert reply.json()["details"] == {"limit_bytes": 1024}
    assert Pin.objects.count() == 1


def test_anybody_may_send_as_much_as_a_file_may_have(settings):
    """The server takes no more than that in, and asks for no credential up to there."""
    for path in ("/file/create", "/file/create/"):
        assert bodies.limit_of(path) == settings.PIN_MAX_BYTES + bodies.FORM_BYTES
        assert bodies.free_of(path) > bodies.limit_of(path)
    assert bodies.free_of("/file/created") == bodies.FREE_BYTES


@pytest.mark.parametrize(
    ("form", "status"),
    [({}, 400), ({"file": "a text"}, 400), ({"other": SimpleUploadedFile("a", b"x")}, 400),
     ({"file": [SimpleUploadedFile("a", b"x"), SimpleUploadedFile("b", b"y")]}, 400)],
)  # fmt: skip
def test_it_takes_one_file_in_its_field(api, form, status):
    reply = api().post("/file/create", form, format="multipart")

    assert reply.status_code == status
    assert not Pin.objects.exists()


def test_it_takes_a_form_only(api):
    assert api().post("/file/create", {"file": "x"}, format="json").status_code == 415


def test_a_wrong_credential_is_not_overlooked(holder):
    assert leave(holder("Token nonsense")).status_code == 401


def test_somebody_elses_page_may_read_it(api, settings):
    settings.CORS_ALLOW_ALL_ORIGINS = True
    cid = leave(api()).json()["cid"]
    found, _ = read(api(), cid, HTTP_ORIGIN="https://elsewhere.example")
    assert found["Access-Control-Allow-Origin"] == "*"


def test_tries_are_counted_by_address(api, settings, monkeypatch):
    monkeypatch.setitem(settings.REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"], "pin", "2/min")
    assert [leave(api(), bytes([n])).status_code for n in range(3)] == [201, 201, 429]
    # What is only read is not counted.
    assert read(api(), pins.cid_of(bytes([0])))[1] == b"\0"


def test_strangers_do_not_fill_the_disk(api, settings):
    settings.PIN_TOTAL_BYTES = 4096
    own = pins.keep(b"ours", filename="", content_type="", keep_until=None, now=NOW)
    assert [leave(api(), bytes([n])).status_code for n in range(2)] == [201, 201]
    pins.cache.clear()
    reply = leave(api(), b"one too many")
    assert (reply.status_code, reply.json()["code"]) == (503, "pins_full")
    # What is there already takes no room, and the marketplace's own is not counted.
    assert leave(api(), b"\0").status_code == 201
    assert pins.read(own.cid) == b"ours"


def test_it_is_dropped_when_its_time_is_over(api):
    cid = leave(api(), b"old").json()["cid"]
    assert pins.sweep(now=NOW + timedelta(days=29)) == 0
    assert pins.sweep(now=timezone.now() + timedelta(days=31)) == 1
    assert api().get(f"/ipfs/{cid}").status_code == 404


def test_leaving_it_again_prolongs_it_and_never_shortens(settings):
    def keep(until):
        return pins.keep(b"x", filename="", content_type="", keep_until=until, now=NOW)

    assert keep(NOW + timedelta(days=2)).keep_until == NOW + timedelta(days=2)
    assert keep(NOW + timedelta(days=1)).keep_until == NOW + timedelta(days=2)
    assert keep(NOW + timedelta(days=3)).keep_until == NOW + timedelta(days=3)
    assert keep(None).keep_until is None
    assert keep(NOW + timedelta(days=9)).keep_until is None


def test_a_pin_that_a_sweep_drops_meanwhile_is_made_again(monkeypatch):
    made = Pin.objects.get_or_create

    def dropped(**options):
        monkeypatch.setattr(Pin.objects, "get_or_create", made)
        found = made(**options)
        Pin.objects.all().delete()
        return found[0], False

    monkeypatch.setattr(Pin.objects, "get_or_create", dropped)
    pins.keep(b"x", filename="", content_type="", keep_until=NOW + timedelta(days=1), now=NOW)
    assert pins.read(pins.cid_of(b"x")) == b"x"


def test_what_a_chain_points_to_stays(task):
    """Whatever the link looks like."""
    config = pins.take(b"config", filename="", content_type="", now=NOW)
    other = pins.take(b"nobody's", filename="", content_type="", now=NOW)
    for link in (pins.url(config), f"ipfs://{config.cid}", f"https://dweb.link/ipfs/{config.cid}?x=1"):
        task.config_url = link
        task.save()
        pins.sweep(now=config.keep_until + timedelta(days=1))
        config.refresh_from_db()
        assert not Pin.objects.filter(pk=other.pk).exists()
    assert config.keep_until > NOW + timedelta(days=59)


def test_a_text_is_a_link_to_one_of_the_files_that_it_names(task):
    """Else one task, whose config may have 4,096 characters, would keep very many of them."""
    first, second = (pins.take(content, filename="", content_type="", now=NOW) for content in (b"1", b"2"))
    task.config_url = f"{pins.url(first)} {pins.url(second)}"
    task.save()
    pins.sweep(now=first.keep_until + timedelta(days=1))
    assert list(Pin.objects.values_list("pk", flat=True)) == [pins.cid_in(task.config_url)]


@pytest.mark.parametrize("status", [TaskStatus.FINALIZED, TaskStatus.CANCELED, TaskStatus.NEW])
def test_what_tasks_pointed_to_that_are_long_over_is_dropped(task, status):
    config = pins.take(b"config", filename="", content_type="", now=NOW)
    over = NOW + timedelta(days=20)
    task.config_url, task.status, task.status_at = pins.url(config), status, over
    task.expiry_time = int(over.timestamp())
    task.save()
    assert pins.sweep(now=over + timedelta(days=29)) == 0
    Pin.objects.update(keep_until=over)
    assert pins.sweep(now=over + timedelta(days=31)) == 1


def test_what_may_be_confirmed_still_stays(task):
    config = pins.take(b"config", filename="", content_type="", now=NOW)
    task.config_url, task.status, task.status_at = pins.url(config), TaskStatus.RESPONDED, NOW
    task.expiry_time = int(NOW.timestamp())
    task.save()
    assert pins.sweep(now=NOW + timedelta(days=300)) == 0


def test_keeping_beyond_the_limit_is_refused(settings):
    settings.PIN_MAX_BYTES = 1024
    with pytest.raises(storage.TooLarge):
        pins.keep(b"x" * 1025, filename="", content_type="", keep_until=None, now=NOW)
