"""Zip files: of rows, of what `save_to_disk` makes, and of what is not taken."""

import io
import random
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune import archives, arrow
from finetune.models import Format
from tests.finetune.test_formats_files import TWO, errors, look

PLAIN = b"".join(TWO)


def zipped(files: dict[str, bytes], **options: Any) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


# Written by pyarrow 26, two rows to a batch.
ARROW = Path(__file__).parent / "arrow"
FIVE = (ARROW / "completion.arrow").read_bytes()


def saved(
    folder: str = "ds/", content: bytes | None = None, name: str = "data-00000-of-00001.arrow"
) -> dict[str, bytes]:
    """The files of `Dataset.save_to_disk`."""
    return {
        f"{folder}state.json": orjson.dumps({"_data_files": [{"filename": name}], "_fingerprint": "1"}),
        f"{folder}dataset_info.json": b"{}",
        f"{folder}{name}": FIVE if content is None else content,
    }


def test_files_of_rows_are_read_one_after_the_other():
    found, rows = look(
        zipped({"b/2.jsonl": TWO[1], "a/1.csv": b"text\na\n", "README.md": b"x", "__MACOSX/a.jsonl": b"x"})
    )

    assert found.errors == []
    assert rows == TWO


def test_an_error_names_its_file():
    [error] = look(zipped({"1.jsonl": PLAIN, "2.jsonl": b'{"text": 5}\n'}))[0].errors

    assert (error["file"], error["line"], error["field"]) == ("2.jsonl", 1, "text")


@pytest.mark.parametrize("folder", ["", "ds/", "a/b/"])
def test_a_saved_dataset_is_read(folder):
    found, rows = look(zipped(saved(folder)))

    assert found.errors == []
    assert (found.format, found.rows) == (Format.COMPLETION, 5)
    assert rows[4] == b'{"prompt":"p4","completion":"c4"}\n'


@pytest.mark.parametrize(
    ("name", "form", "first"),
    [
        ("chat", "chat", {"messages": [{"role": "user", "content": "q0"}, {"role": "assistant", "content": "é0"}]}),
        ("completion", "completion", {"prompt": "p0", "completion": "c0"}),
        (
            "clicks", "clicks",
            {"query": "q", "results": [{"id": "1", "text": "u"}, {"id": "2", "text": "v"}], "clicked": ["1"]},
        ),
    ],
)  # fmt: skip
def test_what_pyarrow_has_written_is_read(name, form, first):
    found, rows = look(zipped(saved(content=(ARROW / f"{name}.arrow").read_bytes())))

    assert found.errors == []
    assert found.format == form
    assert orjson.loads(rows[0]) == first


def test_columns_of_all_kinds_are_passed_by():
    rows = list(arrow.read(io.BytesIO((ARROW / "odd.arrow").read_bytes())))

    assert [(number, row["text"], row["bool"], row["half"], row["ll"]) for number, row in rows] == [
        (1, "a", True, 1.5, [1]), (2, None, None, 2.0, []), (3, "c", False, 3.0, None),
    ]  # fmt: skip
    found = look(zipped(saved(content=(ARROW / "odd.arrow").read_bytes())))[0]
    assert [(each["line"], each["field"]) for each in found.errors] == [(2, "text")]


def test_a_split_is_chosen():
    both = zipped({**saved("train/"), **saved("test/", (ARROW / "odd.arrow").read_bytes())})
    files = zipped({"train.jsonl": PLAIN, "validation.jsonl": PLAIN * 2, "other.jsonl": PLAIN * 3})
    only = zipped({"valid.jsonl": PLAIN})

    assert [look(both, split=split)[0].rows for split in ("", "train", "test")] == [5, 5, 2]
    assert [look(files, split=split)[0].rows for split in ("", "validation")] == [2, 4]
    assert look(both)[0].summary()["unused_files"] == ["test/data-00000-of-00001.arrow"]
    assert look(only)[0].rows == 2
    assert "Which files" in errors(both, split="validation")[0][1]
    assert "Which files" in errors(only, split="train")[0][1]
    assert "Which files" in errors(zipped({"dev.jsonl": PLAIN, "test.jsonl": PLAIN}))[0][1]


@pytest.mark.parametrize(
    ("name", "says"),
    [("../a.jsonl", "leads out"), ("/a.jsonl", "leads out"), ("a/../../b.jsonl", "leads out"),
     ("C:a.jsonl", "leads out"), ("a\\..\\b.jsonl", "leads out"),
     ("b.zip", "archive in an archive"), ("b.tar.gz", "archive in an archive"),
     ("b.txt.GZ", "archive in an archive"), ("xl/workbook.xml", "Excel"), ("picture.png", "no rows"),
     (".hidden.jsonl", "no rows")],
)  # fmt: skip
def test_what_an_archive_should_not_have_is_refused(name, says):
    assert says in errors(zipped({name: PLAIN}))[0][1]


def test_a_link_is_refused():
    info = zipfile.ZipInfo("a.jsonl")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(info, "/etc/passwd")

    assert "link" in errors(out.getvalue())[0][1]


def test_an_archive_under_another_name_is_refused():
    assert "archive in an archive" in errors(zipped({"a.jsonl": zipped({"b.jsonl": PLAIN})}))[0][1]
    assert "gzip" in errors(zipped({"a.jsonl": b"\x1f\x8b\x08" + PLAIN}))[0][1]


def test_bombs_are_refused():
    ratio = zipped({"a.jsonl": b"\n" * 5_000_000})
    many = zipped({f"{n}.jsonl": b"" for n in range(archives.MOST_FILES + 1)})
    listing = io.BytesIO()
    with zipfile.ZipFile(listing, "w") as archive:
        for n in range(70):
            archive.writestr(zipfile.ZipInfo(f"{n}" + "x" * 60_000), b"")
    overlapping = bytearray(zipped({"a.jsonl": PLAIN * 100, "b.jsonl": PLAIN * 100}))
    at = overlapping.rfind(b"PK\x01\x02")
    struct.pack_into("<L", overlapping, at + 20, 10**9)

    assert "200 times" in errors(ratio)[0][1]
    assert "more than 1000 files" in errors(many)[0][1]
    assert "list of files" in errors(listing.getvalue())[0][1]
    assert "too many" in errors(bytes(overlapping))[0][1]
    found = look(zipped({"a.jsonl": PLAIN}))[0]
    assert found.rows == 2
    limited = archives.Archive
    with pytest.raises(archives.BadArchive, match="too many"):
        limited(io.BytesIO(zipped({"a.jsonl": PLAIN})), size=10**6, limit=10)


def test_encrypted_and_oddly_compressed_files_are_refused():
    content = bytearray(zipped({"a.jsonl": PLAIN}))
    at = content.rfind(b"PK\x01\x02")
    content[at + 8] |= 1
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.jsonl", PLAIN)

    assert "encrypted" in errors(bytes(content))[0][1]
    assert "not read here" in errors(out.getvalue())[0][1]


def test_a_folder_that_is_not_whole_is_refused():
    files = saved()
    del files["ds/data-00000-of-00001.arrow"]

    assert "is missing" in errors(zipped(files))[0][1]
    for state in (b"", b"[]", b"{}", b'{"_data_files": 5}', b"\xff"):
        assert "not what `save_to_disk`" in errors(zipped({**saved(), "ds/state.json": state}))[0][1]
    outside = orjson.dumps({"_data_files": [{"filename": "../../etc/passwd"}]})
    assert "is missing" in errors(zipped({**saved(), "ds/state.json": outside}))[0][1]


@pytest.mark.parametrize(
    ("name", "says"), [("packed", "it is compressed"), ("view", "type that is not read here")]
)
def test_what_is_not_read_of_arrow_is_said(name, says):
    assert says in errors(zipped(saved(content=(ARROW / f"{name}.arrow").read_bytes())))[0][1]


@pytest.mark.parametrize(
    ("limit", "says"),
    [("MAX_VALUES", "lists of a row"), ("MAX_ROW", "a row has more"), ("MAX_BATCH", "more than 1 bytes"),
     ("MAX_DESCRIPTION", "more than 1 bytes")],
)  # fmt: skip
def test_arrow_files_that_are_too_much_are_refused(monkeypatch, limit, says):
    monkeypatch.setattr(arrow, limit, 1)

    assert says in errors(zipped(saved(content=(ARROW / "chat.arrow").read_bytes())))[0][1]


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 6), cut=st.integers(0, 200))
def test_no_damage_to_an_archive_breaks_it(seed, count, cut):
    chance = random.Random(seed)
    content = bytearray(zipped({**saved(), "x.jsonl": PLAIN}))
    for _ in range(count):
        content[chance.randrange(len(content))] = chance.randrange(256)
    found, rows = look(bytes(content[: len(content) - cut]))

    assert found.error_count or len(rows) == found.rows


@settings(max_examples=500, deadline=None)
@given(
    seed=st.integers(0, 2**32), count=st.integers(1, 6), cut=st.integers(0, 100),
    name=st.sampled_from(["chat", "odd", "clicks", "packed"]),
)  # fmt: skip
def test_no_damage_to_an_arrow_file_breaks_it(seed, count, cut, name):
    chance = random.Random(seed)
    content = bytearray((ARROW / f"{name}.arrow").read_bytes())
    for _ in range(count):
        content[chance.randrange(len(content))] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
    list(arrow.read(io.BytesIO(bytes(content[: len(content) - cut]))))
