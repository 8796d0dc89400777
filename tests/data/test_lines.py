"""CSV and JSON lines as a stream: the same rows as by index, and a damaged one costs itself alone."""

from __future__ import annotations

import csv
import json
from itertools import chain

import pandas as pd
import pytest
from pandas._libs.parsers import STR_NA_VALUES

from clipkit.data.head import as_dataset
from clipkit.data.lines import NO_VALUE
from clipkit.data.sharded import KEY, SKIPPED
from clipkit.data.skips import Skipped
from clipkit.data.source import load_rows
from clipkit.data.tables import file_shards

TEXTS = [
    "plain",
    "a, b",
    'she said "no"',
    "two\nlines",
    "two\r\nlines",
    " spaces ",
    "\u00e9t\u00e9 \U0001f600",
    "x" * 200_000,  # beyond what Python's reader takes unless told
    "007",
    *sorted(STR_NA_VALUES),
]
ROWS = [{"filepath": f"{i}.png", "text": text, "wide": i, "score": i / 4} for i, text in enumerate(TEXTS)]


def written(path, rows=ROWS, encoding="utf-8", **options):
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


def streamed(path):
    """What comes of it, with the names of rows kept apart."""
    shards = file_shards([str(path)], None)
    found = list(chain.from_iterable(items for _, items in shards.parts(0)))
    names = [item.key if isinstance(item, Skipped) else item[KEY] for item in found]
    return found, names


def by_index(path):
    rows = load_rows(str(path))
    kept = [name for name in rows.column_names if name != "filepath"]
    return rows.select_columns(kept).to_list()


def without_images(rows):
    return [{name: value for name, value in row.items() if name[0] != "_" and name != "filepath"} for row in rows]


def test_what_pandas_takes_for_no_value():
    assert NO_VALUE == STR_NA_VALUES


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.csv", {}),
        ("a.tsv", {"delimiter": "\t"}),
        ("quoted.csv", {"quoting": csv.QUOTE_ALL}),
        ("unix.csv", {"lineterminator": "\n"}),
        ("marked.csv", {"encoding": "utf-8-sig"}),
    ],
)
def test_a_csv_is_the_same_by_index_and_as_a_stream(tmp_path, name, options):
    path = written(tmp_path / name, **options)
    found, names = streamed(path)
    assert without_images(found) == by_index(path)
    assert names == [f"row {i}" for i in range(len(ROWS))]


@pytest.mark.parametrize(
    "text",
    [
        "filepath,text\n\n1.png,a\n\n\n2.png,b",
        ",filepath,text,text\n0,1.png,a,b\n1,2.png,c,d\n",
        "filepath,text,yes\n1.png,a,True\n2.png,b,False\n",
        "filepath,text,count\n1.png,a,1\n2.png,b,\n3.png,c,3\n",
        'filepath,text\n1.png,5" wide\n2.png,"a"b\n',
        "filepath,text,more\n1.png,a\n2.png,b,c\n",
        "filepath,text\n  1.png,a\n   \n\t\n2.png, b\n",
        "filepath,text,id\n1.png,a,12_34\n2.png,b,56_78\n",
        "filepath,text,id\n1.png,a,\uff11\uff12\n2.png,b,\uff13\n",
        "filepath,text,id\n1.png,a,1\n2.png,b,2.5\n3.png,c,1e3\n",
    ],
    ids=[
        *("empty lines", "columns without a name of their own", "truth", "gaps", "quotes within", "short rows"),
        *("blank lines", "parted numbers", "full-width numbers", "fractions"),
    ],
)
def test_what_is_no_usual_csv_is_the_same_too(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    found, _ = streamed(tmp_path / "a.csv")
    expected = pd.DataFrame(by_index(tmp_path / "a.csv"))
    assert len(found) == len(expected) >= 2
    assert pd.DataFrame(without_images(found)).equals(expected)


@pytest.mark.parametrize(("name", "as_array"), [("a.jsonl", False), ("a.json", False), ("a.json", True)])
def test_json_is_the_same_by_index_and_as_a_stream(tmp_path, name, as_array):
    lines = [json.dumps(row) for row in ROWS]
    (tmp_path / name).write_text(f"[{', '.join(lines)}]" if as_array else "\n".join(lines) + "\n\n")
    found, names = streamed(tmp_path / name)
    assert without_images(found) == by_index(tmp_path / name) == without_images(ROWS)
    assert names == [f"row {i}" for i in range(len(ROWS))]


BAD_CSV = {
    b"1.png,a,b\n": "3 fields under 2 columns; what has a separator in it must be quoted",
    b"1.png,\xff\xfe\n": "it is not UTF-8",
    b'1.png,"' + b"x" * 70_000 + b'"\n': "a line of 70009 bytes",
    b"1.png,a\rb\n": "it is no CSV: a carriage return stands in it; quote it",
}
BAD_JSON = {
    b'{"filepath": "1.png", "text"\n': "Expecting ':' delimiter",
    b"[1, 2]\n": "a line should be an object, as {...}, and is a list",
    b'{"text": "\xff"}\n': "it is not UTF-8",
    b'{"text": "' + b"x" * 70_000 + b'"}\n': "a line of 70013 bytes",
    b"[" * 30_000 + b"\n": "it is no JSON",
}


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [("a.csv", *case) for case in BAD_CSV.items()] + [("a.jsonl", *case) for case in BAD_JSON.items()],
)
def test_a_damaged_row_costs_itself_alone(tmp_path, monkeypatch, name, bad, message):
    monkeypatch.setattr("clipkit.data.lines.MOST_TEXT", 65_536)
    if name == "a.csv":
        head, rows = b"filepath,text\n", [b"0.png,a\n", b"2.png,c\n"]
    else:
        head, rows = b"", [b'{"filepath": "0.png", "text": "a"}\n', b'{"filepath": "2.png", "text": "c"}\n']
    (tmp_path / name).write_bytes(head + rows[0] + bad + rows[1])
    shards = file_shards([str(tmp_path / name)], None)
    parts = list(shards.parts(0))
    found = [item for _, (item,) in parts]
    assert [found[0]["text"], found[2]["text"]] == ["a", "c"] and len(found) == 3
    assert isinstance(found[1], Skipped) and message in found[1].message
    assert (found[1].key, found[2][KEY]) == ("row 1", "row 2")
    assert found[1].reason == ("too_large" if "a line of" in message else "bad_text")
    for number, (begin, _) in enumerate(parts):
        assert [item for _, (item,) in shards.parts(0, begin)] == found[number:]


def test_a_quote_that_nothing_closes_ends_at_the_largest_text(tmp_path, monkeypatch):
    """And not with the memory; what comes then is read again as rows."""
    before = csv.field_size_limit(1000)
    rows = b"0.png,a\n" * 500
    (tmp_path / "a.csv").write_bytes(b"filepath,text\n0.png,a\n" + b'1.png,"open\n' + rows)
    try:
        found, _ = streamed(tmp_path / "a.csv")
    finally:
        csv.field_size_limit(before)
    bad = [item for item in found if isinstance(item, Skipped)]
    assert len(bad) == 1 and "field larger than field limit" in bad[0].message
    assert len(found) > 300


def test_a_quote_that_nothing_closes_up_to_the_end(tmp_path):
    """What follows it is lost with it, and told, as pandas tells it."""
    (tmp_path / "a.csv").write_text('filepath,text\n1.png,ok\n2.png,"open\n3.png,c\n4.png,d\n')
    found, _ = streamed(tmp_path / "a.csv")
    assert found[0]["text"] == "ok" and len(found) == 2
    assert found[1].reason == "bad_text" and "nothing closes a quote" in found[1].message
    (tmp_path / "b.csv").write_text('filepath,text\n1.png,ok\n2.png,"closed"')
    found, _ = streamed(tmp_path / "b.csv")
    assert [row["text"] for row in found] == ["ok", "closed"]


def test_json_that_is_one_whatever_it_is_called(tmp_path):
    rows = [{"filepath": f"{i}.png", "text": f"thing {i}"} for i in range(3)]
    for name, text in {"a.jsonl": json.dumps(rows), "b.json": json.dumps(rows, indent=1)}.items():
        (tmp_path / name).write_text(text)
        found, names = streamed(tmp_path / name)
        assert without_images(found) == [{"text": f"thing {i}"} for i in range(3)]
        assert names == ["row 0", "row 1", "row 2"]


@pytest.mark.parametrize("bad", ['{"filepath": "0.png", "text"', "[1, 2]", "nonsense"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_first_line_that_is_damaged(tmp_path, name, bad):
    (tmp_path / name).write_text(f'{bad}\n{{"filepath": "1.png", "text": "a"}}\n')
    found, _ = streamed(tmp_path / name)
    assert isinstance(found[0], Skipped) and found[1]["text"] == "a" and len(found) == 2


def test_a_header_that_is_not_utf_8(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"filepath,l\xe9gende\n0.png,a\n")
    (tmp_path / "b.csv").write_text("filepath,text\n0.png,a\n")
    shards = file_shards([str(tmp_path / name) for name in ("a.csv", "b.csv")], None)
    assert list(shards.features) == ["filepath", "text"]
    ((_, (told,)),) = shards.parts(0)
    assert (told.reason, told.message) == ("bad_text", "its header is not UTF-8")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_kinds_are_told_by_few_rows_where_these_are_large(tmp_path, monkeypatch, name):
    monkeypatch.setattr("clipkit.data.lines.MOST_LOOKED_AT", 100)
    rows = [{"filepath": "0.png", "text": "a" * 60, "number": 1}] * 5
    rows.append({"filepath": "0.png", "text": "0", "number": "x"})
    if name == "a.csv":
        written(tmp_path / name, rows)
    else:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    features = file_shards([str(tmp_path / name)], None).features
    assert (features["text"].dtype, features["number"].dtype) == ("string", "int64")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_late_value_of_another_kind_is_told_where_rows_are_looked_at(tmp_path, name):
    rows = [{"filepath": "0.png", "text": f"{i}", "n": i if i != 1500 else "many"} for i in range(1600)]
    if name == "a.csv":
        written(tmp_path / name, rows)
    else:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(as_dataset(file_shards([str(tmp_path / name)], None)))
    assert len(found) == 1600
    bad = [json.loads(row[SKIPPED]) for row in found if row[SKIPPED]]
    assert [(key, reason) for _, key, reason, *_ in bad] == [("row 1500", "bad_value")]


def test_a_file_without_a_column_of_the_first(tmp_path):
    (tmp_path / "a.csv").write_text("filepath,text\n0.png,a\n")
    (tmp_path / "b.csv").write_text("filepath,title\n0.png,a\n")
    (tmp_path / "c.csv").write_text("")
    shards = file_shards([str(tmp_path / name) for name in ("a.csv", "b.csv", "c.csv")], None)
    told = [item for number in (1, 2) for _, items in shards.parts(number) for item in items]
    assert [(one.reason, one.message) for one in told] == [
        ("damaged_shard", "it has no column 'text': filepath, title"),
        ("damaged_shard", "it is empty"),
    ]
