"""Files of rows in every layout: read as a stream, whatever is in them."""

import io
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune import inspection, layouts
from finetune.inspection import Inspection, Told
from finetune.layouts import Layout
from finetune.models import Format


def look(content: bytes, name: str = "", **told: Any) -> tuple[Inspection, list[bytes]]:
    found = Inspection(Told(**told))
    rows = list(found.canonical(io.BytesIO(content), name=name, size=len(content), limit=10**9))
    return found, rows


def errors(content: bytes, name: str = "", **told: Any) -> list[tuple[int, str]]:
    found, _ = look(content, name, **told)
    assert found.error_count == len(found.errors)
    assert all(each["fix"] for each in found.errors)
    return [(each["line"], each["message"]) for each in found.errors]


TWO = [b'{"text":"a"}\n', b'{"text":"b"}\n']


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"}\n'),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"}'),
        ("a.jsonl", b'\xef\xbb\xbf{"text": "a"}\r\n\r\n   \r\n{"text": "b"}\r\n\n'),
        ("", b'\n\n{"text": "a"}\n"b"\n'),
        ("a.json", b'[{"text": "a"}, {"text": "b"}]'),
        ("a.json", b'\xef\xbb\xbf\n [\n{"text":\n"a"}\n,\n"b"\n]\n\n'),
        ("a.jsonl", b'[{"text": "a"}, {"text": "b"}]'),
        ("a.csv", b"text\na\nb\n"),
        ("a.csv", b'\xef\xbb\xbftext,n\r\n"a",1\r\n\r\n"b",2\r\n'),
        ("a.tsv", b"n\ttext\n1\ta\n2\tb"),
        ("a.csv", b"n;text\n1;a\n2;b"),
        ("a.csv", b"\xef\xbb\xbftext;n;;\r\na;1;;\r\nb;2;;\r\n;;;\r\n;;;\r\n"),
        ("a.txt", b"a\nb\n"),
        ("notes", b"\xef\xbb\xbfa\r\n\r\nb"),
    ],
)
def test_the_same_rows_in_every_layout(name, content):
    found, rows = look(content, name)

    assert found.errors == []
    assert rows == TWO
    assert (found.format, found.summary()["rows"]) == (Format.TEXT, 2)


def test_lists_in_a_table_are_json():
    content = b'query,results,clicked\nq,"[""u"", ""v""]",[0]\nr,"[""u""]",[]\n'

    assert look(content, "a.csv")[1][0] == (
        b'{"query":"q","results":[{"id":"0","text":"u"},{"id":"1","text":"v"}],"clicked":["0"]}\n'
    )


@pytest.mark.parametrize(
    ("content", "name", "line", "says"),
    [
        (b'{"text": "a"}\n{"text": }\n{"text": "b"}', "", 2, "not valid JSON"),
        (b'{"text": "a"}\n{"text": NaN}\n', "", 2, "not valid JSON"),
        (b'{"text": "a"}\n[1]\n', "", 2, "no object"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', "", 2, "not UTF-8"),
        (b'{"text": "a"}\n{"text": "\\ud800"}\n', "", 2, "not valid JSON"),
        (b'{"text": "a"}\n{"text": ' + b"[" * 5000 + b"]" * 5000 + b"}\n", "", 2, "nested too deeply"),
        (
            b'{"text": "a"}\n{"text": "' + b"x" * layouts.MAX_ROW + b'"}\n{"text": "b"}\n',
            "",
            2,
            "longer than",
        ),
        (b'{"text": "a"}\n' + b"x" * 3 * layouts.MAX_ROW, "", 2, "longer than"),
        (b'[{"text": "a"},\n{"text": }]', "", 2, "not valid JSON"),
        (b'[{"text": "a"},\n{"text": NaN}, {"text": "b"}]', "", 2, "not valid JSON"),
        (b'[{"text": "a"},\n5]', "", 2, "no object"),
        (b'[{"text": "a"}\n{"text": "b"}]', "", 2, "comma or ]"),
        (b'[{"text": "a"},\n]', "", 2, "not valid JSON"),
        (b'[{"text": "a"},\n"b', "", 2, "not complete"),
        (b'[{"text": "a"},\n', "", 2, "not valid JSON"),
        (b'[{"text": "a"}, {"text": "b"}]\n]', "", 2, "behind the end"),
        (b'[{"text": "a"},\n{"text": "\xff"}]', "", 2, "not UTF-8"),
        (b'[{"text": "a"},\n' + b"[" * 100_000 + b"]" * 100_000 + b"]", "", 2, "nested too deeply"),
        (b'[{"text": "a"},\n{"text": "' + b"x" * layouts.MAX_ROW + b'"}]', "", 2, "longer than"),
        (b"text\na\nb,c\n", "a.csv", 3, "2 fields"),
        (b'text\n"a"x\nb\n', "a.csv", 2, "not valid CSV"),
        (b'text\na\n"b\nc\nd', "a.csv", 3, "not valid CSV"),
        (b"text\na\n\xff\n", "a.csv", 3, "not UTF-8"),
        (b"text,text\na,b\n", "a.csv", 1, "twice"),
        (b"\na,b\n", "a.csv", 1, "header is missing"),
        (b"text\n" + b"x" * (layouts.MAX_ROW + 10) + b"\na\n", "a.csv", 2, "longer than"),
        (b'text\n"' + (b"x" * 999 + b"\n") * (layouts.MAX_ROW // 999), "a.csv", 2, "not valid CSV"),
        (b"a\n\xff\xfe\n", "a.txt", 2, "not UTF-8"),
        (b'{"a": 1}\n{"text": "a"}\n', "", 1, "None of the known formats has the fields 'a'."),
        (
            b'{"anchor": "a", "positive": "b", "score": 1}\n{"anchor": "a", "positive": "b"}',
            "",
            2,
            "Some rows have a score",
        ),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(content, name, line, says):
    found = errors(content, name)

    assert any(at == line and says in message for at, message in found), found


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no rows"),
        (b"\n\n", "no rows"),
        (b"[]", "no rows"),
        (b'{"text": "a"}', "one row"),
        (b"\x1f\x8b\x08abc", "gzip"),
        (b"PAR1abc", "Parquet"),
        (b"ARROW1\0\0", "Arrow"),
        (b"\xff\xfea\0", "UTF-16"),
        (b"%PDF-1.4", "PDF"),
        (b'{"query": "q", "results": ["u"], "clicked": []}\n' * 2, "Nothing was clicked"),
    ],
)
def test_what_is_wrong_with_a_whole_file_is_said(content, says):
    [(line, message)] = errors(content)

    assert line == 0
    assert says in message


def test_errors_are_counted_and_the_first_are_kept_and_nothing_is_written_after_one():
    found, rows = look(TWO[0] + b"broken\n" * 250 + TWO[1])

    assert (found.error_count, len(found.errors), found.rows) == (250, inspection.KEPT_ERRORS, 2)
    assert rows == TWO[:1]


def test_a_list_is_read_on_behind_what_is_no_json():
    found = errors(b'[{"text": "a"}, {"text": },\n {"text": "]}"}, nul,\n {"text": 5}]')

    assert [line for line, _ in found] == [1, 2, 3]
    assert ["not valid JSON" in message for _, message in found] == [True, True, False]


def test_what_is_told_is_believed():
    assert errors(b'{"text": "a"}\n{"text": "b"}', format=Format.COMPLETION)[0][1] == "prompt is missing."
    assert (
        look(b'{"text": "a"}\n{"text": "b"}', layout=Layout.TEXT)[1][0]
        == b'{"text":"{\\"text\\": \\"a\\"}"}\n'
    )
    assert "no zip" in errors(b"text", layout=Layout.ZIP)[0][1]


def test_the_summary_counts(monkeypatch):
    content = "".join(
        f'{{"anchor": "{a}", "positive": "b", "score": 1}}\n' for a in ("é", "longest", "é", "c", "c")
    )
    found, _ = look(content.encode())

    assert found.summary() == {
        "rows": 5, "tokens": (2 + 7 + 2 + 1 + 1 + 5) // 4, "duplicates": 2, "longest": {"line": 2, "chars": 8},
        "bytes": found.summary()["bytes"], "scored": True,
    }  # fmt: skip
    monkeypatch.setattr(inspection, "REMEMBERED", 1)
    found, _ = look(content.encode())
    assert (found.summary()["duplicates"], found.summary()["duplicates_among"]) == (1, 1)


pieces = st.sampled_from(
    [b'{"text": "a"}', b'{"messages": [{"role": "user", "content": "x"}]}', b'"a"', b"null", b"NaN", b"a,b", b"1e999",
     b"PK\x03\x04", b"\xef\xbb\xbf", b"\xff", b"\xc3", b"\r\n", b"\0", *(bytes([each]) for each in b'[],"\n{}\\:;\t')]
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(
    content=st.lists(pieces | st.binary(max_size=6), max_size=30).map(b"".join),
    name=st.sampled_from(["", "a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.zip", "."]),
    form=st.none() | st.sampled_from(list(Format)),
    layout=st.none() | st.sampled_from(list(Layout)),
)
@example(content=b"PK\x05\x06" + b"\0" * 18, name="", form=None, layout=None)
def test_no_bytes_break_it(content, name, form, layout):
    found, rows = look(content, name, format=form, layout=layout)

    assert found.error_count or found.rows >= inspection.LEAST_ROWS
    assert found.error_count or len(rows) == found.rows
    again, same = look(b"".join(rows), "rows.jsonl", format=found.format)
    assert found.error_count or (again.errors, same) == ([], rows)
