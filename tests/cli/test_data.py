from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from clipkit.cli.main import main
from clipkit.data import load_rows

from ..data.malformed import HTML, PNG, members, picture, tar


@pytest.fixture
def pictures(own_folder):
    """A folder of eight captioned pictures, one of them a page of HTML."""
    folder = own_folder / "pictures"
    folder.mkdir()
    for i in range(8):
        Image.effect_mandelbrot((120, 80), (-2, -1.5 + i / 9, 1, 1.5), 30 + i).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a fractal, number {i}", encoding="utf-8")
    (folder / "5.png").write_text("<html>", encoding="utf-8")
    return folder


def test_check_prints_writes_and_draws(pictures, capsys):
    words = ["data", "check", "pictures", "--json", "found.json", "--pictures", "drawn", "--context-length", "6"]
    assert main([*words, "--workers", "0"]) == 0
    out, err = capsys.readouterr()
    assert "12.50% of the rows cannot be used" in out and "not_an_image" in out and "5.png" in out
    assert "7 of 8 rows can be used" in out
    assert err == ""
    report = json.loads(Path("found.json").read_text(encoding="utf-8"))
    assert (report["source"], report["read"], report["skipped"]) == ("pictures", 8, {"not_an_image": 1})
    assert report["captions"]["truncated"] == 1
    assert {file.name for file in Path("drawn").iterdir()} >= {"sizes.png", "captions.png", "skipped.png"}


def test_check_of_the_first_rows(pictures, capsys):
    assert main(["data", "check", "pictures", "--limit", "3", "--no-near", "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "3 of 3 rows" in out and "near duplicates" not in out


@pytest.fixture
def shards(own_folder):
    """Tar shards of 19 good samples: four members of the first are bad, the second is cut off, the third is none."""
    (own_folder / "tars").mkdir()

    def good(name, count):
        of = range(count)
        return [
            part for i in of for part in members(f"{name}{i}", picture(size=(20 + i, 18)), txt=f"{name} {i}".encode())
        ]

    bad = [*members("page", HTML), *members("blank", txt=b" "), ("lonely.txt", b"x"), ("../out.png", PNG)]
    (own_folder / "tars/0.tar").write_bytes(tar([*good("a", 6), *bad]))
    second = tar(good("b", 9))
    (own_folder / "tars/1.tar").write_bytes(second[: second.index(b"b7.png") + 600])
    (own_folder / "tars/2.tar").write_bytes(HTML)
    (own_folder / "tars/3.tar").write_bytes(tar(good("c", 6)))


LEFT_OUT = {
    ("tars/0.tar", "page"): "not_an_image",
    ("tars/0.tar", "blank"): "no_caption",
    ("tars/0.tar", "lonely"): "missing_member",
    ("tars/0.tar", "../out.png"): "unsafe_name",
    ("tars/1.tar", ""): "damaged_shard",
    ("tars/2.tar", ""): "damaged_shard",
}


def test_check_of_tar_shards(shards, capsys):
    assert main(["data", "check", "tars", "--workers", "0", "--json", "found.json"]) == 0
    out = capsys.readouterr().out
    assert "24.00% of the rows cannot be used" in out and "19 of 25 rows can be used" in out
    assert "page (0.tar): it is in no image format" in out and "(1.tar): it ends within 'b7.png'" in out
    report = json.loads(Path("found.json").read_text(encoding="utf-8"))
    assert report["read"] == 25 == report["used"] + sum(report["skipped"].values())
    assert {(row["source"], row["key"]): row["reason"] for row in report["bad_rows"]} == LEFT_OUT
    assert report["skipped"] == Counter(LEFT_OUT.values())


def test_check_of_the_first_rows_of_a_stream(shards, capsys):
    shutil.copyfile("tars/3.tar", "tars/-.tar")  # comes first, and is all that is looked at
    assert main(["data", "check", "tars", "--limit", "5", "--no-near", "--workers", "0", "--json", "found.json"]) == 0
    assert "5 of 5 rows" in capsys.readouterr().out
    assert main(["data", "check", "tars", "--limit", "14", "--workers", "2", "--json", "found.json"]) == 0
    report = json.loads(Path("found.json").read_text(encoding="utf-8"))
    assert (report["read"], report["used"]) == (14, 12)
    assert report["skipped"] == {"not_an_image": 1, "no_caption": 1}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_pack_of_tar_shards(shards, capsys, workers):
    words = ["data", "pack", "tars", "packed", "--size", "16", "--rows-per-shard", "4", "--workers", workers]
    assert main(words) == 0
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    counts = {name: int(lines[name]) for name in ("read", "written", *set(LEFT_OUT.values()))}
    assert counts == {"read": 25, "written": 19, **Counter(LEFT_OUT.values())}
    told = [json.loads(line) for line in Path("packed/skipped.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {(row["source"], row["key"]): row["reason"] for row in told} == LEFT_OUT and len(told) == 6
    rows = load_rows("packed")
    assert len(rows) == 19 and rows[0]["txt"] == "a 0" and rows[0]["image"].size == (18, 16)
    assert {"__key__", "__source__"} < set(rows.column_names) and "__skipped__" not in rows.column_names


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("words", [["check", "pictures", "--no-near"], ["pack", "pictures", "packed"]])
def test_a_bar_is_drawn_in_a_terminal(pictures, monkeypatch, words):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert main(["data", *words, "--workers", "0"]) == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert words[0] + "ed" in shown and "\u2501" in shown  # the bar
    assert "8/8" in shown and "1 left out" in shown


def test_a_packed_folder_is_packed_checked_and_trained_on(pictures, no_pictures, capsys):
    words = ["data", "pack", "pictures", "packed", "--size", "32", "--format", "uint8", "--workers", "0"]
    assert main(words) == 0
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert (lines["read"], lines["not_an_image"], lines["written"]) == ("8", "1", "7")
    rows = load_rows("packed")
    assert rows[0]["image"].size == (48, 32) and rows[0]["text"] == ["a fractal, number 0"]
    assert main(words) == 0  # whole already
    assert main(["data", "check", "packed", "--workers", "0"]) == 0
    assert "7 of 7 rows" in capsys.readouterr().out
    fit = ["fit", "-c", "emoji", "--data.train=packed", "--data.val=null", "--data.caption=text", "--data.batch_size=4"]
    fit += ["--data.concept=row", "--data.distinct_concepts=false", "--data.workers=0", "--trainer.max_steps=1"]
    fit += ["--tracking-uri=sqlite:///m.db", "--trainer.precision=32-true", "--trainer.callbacks=[]"]
    assert main(fit) == 0, capsys.readouterr().err
    client = MlflowClient(tracking_uri="sqlite:///m.db")
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    manifest = json.loads(Path("packed/manifest.json").read_text(encoding="utf-8"))
    assert run.data.tags["data.fingerprint"] == manifest["fingerprint"] == lines["fingerprint"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chek", "emoji"], "there is no chek. Did you mean check?"),
        (["check", "emoij/"], "SPEC: "),
        (["check", "./pictres"], "SPEC: there is nothing at './pictres'; did you mean 'pictures'?"),
        (["check", "emoji", "--tokeniser", "x"], "--tokeniser is not known; did you mean --tokenizer?"),
        (["check", "emoji/cells", "--caption", "nmae"], "--caption: there is no column 'nmae'; did you mean 'name'"),
        (["check", "emoji/cells", "--json", "no/where.json"], "--json: there is no folder no to write where.json to."),
        (["check", "emoji/cells", "--limit", "0"], "0 is less than 1"),
        (["pack", "emoji/cells", "out", "--format", "jpg"], "there is no jpg. Did you mean jpeg?"),
        (["pack", "emoji/cells", "pictures"], "DIR: 'pictures' is not empty"),
        (["build-icons", "out", "--from", "none"], "--from: there is no folder none."),
        (["build-icons", "out", "--from", "pictures"], "--from: 'pictures' holds no collections.json"),
        (["pack", "emoji/cells"], "the following arguments are required: DIR"),
    ],
)
def test_mistakes_are_told_in_a_line(pictures, words, message, capsys):
    assert main(["data", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err and err.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["check"], ["pack"], ["build-icons"], ["build-emoji"]])
def test_help_imports_nothing_heavy(words):
    code = "import sys; from clipkit.cli.main import main; code = main(sys.argv[1:]); print(code, *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "data", *words, "--help"], capture_output=True, text=True, check=True
    )
    *text, last = done.stdout.splitlines()
    assert last.split()[0] == "0" and len(text) > 5
    assert not {"torch", "datasets", "numpy", "PIL", "pyarrow", "rich"} & set(last.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["build-emoji"], "clipkit data: DIR is missing: where is the set to be written?"),
        (["build-emoji", "out", "--packages", "none"], "clipkit data: --packages: there is no folder none."),
        (["build-emoji", "out", "--packages", ".", "--check"], "there is no file out/emoji.parquet to check."),
    ],
)
def test_what_is_missing_is_told(words, message, capsys):
    assert main(["data", *words]) == 2
    assert message in capsys.readouterr().err


def test_missing_packages_are_told(own_folder, capsys):
    assert main(["data", "build-emoji", "out", "--packages", "."]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("clipkit data: ")
    assert err.count("\n") == 1


def test_without_npm_packages_cannot_be_fetched(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert main(["data", "build-emoji", "out"]) == 2
    assert "npm was not found" in capsys.readouterr().err


def test_a_build_prints_its_counts(monkeypatch, capsys, own_folder):
    monkeypatch.setattr("clipkit.data.build_emoji.build_emoji", lambda packages, out: {"images": 10912})
    assert main(["data", "build-emoji", "out", "--packages", "."]) == 0
    assert capsys.readouterr().out.split() == ["images", "10,912"]


@pytest.mark.parametrize(("differences", "code"), [([], 0), (["1f600 noto: a in the file, b rendered"], 1)])
def test_a_check_tells_what_differs(monkeypatch, capsys, differences, code):
    monkeypatch.setattr("clipkit.data.build_emoji.check_emoji", lambda packages, parquet: differences)
    assert main(["data", "build-emoji", "--check", "--packages", "."]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == differences
    assert lines[-1].endswith("1 rows differ" if code else "every pixel agrees")
