from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, Image, IterableDataset, List, Value
from PIL import Image as Pillow

from clipkit.data import CaptionDataModule, fingerprint, load_rows, open_image
from clipkit.data.pack import pack
from clipkit.data.pack_chunk import shrink
from clipkit.types import ArgumentError

ROWS = 40
BAD = {3: (b"<html>", "a page", "not_an_image"), 17: (None, "nothing", "no_image"), 21: ("same", "", "no_caption")}


def picture(number: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (9, 12 + number % 3, 3), dtype=np.uint8)
    Pillow.fromarray(noise).resize((60 + number % 3 * 20, 48)).save(file, kind)
    return file.getvalue()


def records():
    """Rows of which three cannot be used, one repeats another's image and caption, and one its image alone."""
    for i in range(ROWS):
        data, caption, _ = BAD.get(i, (picture(i), f"picture {i}", ""))
        data = picture(i) if data == "same" else data
        if i in (30, 31):  # 30 is row 5 once more, in another file format
            data, caption = picture(5, "BMP"), ("picture 5" if i == 30 else "the fifth picture")
        image = None if data is None else {"bytes": data, "path": f"{i}.png"}
        yield {"photo": image, "text": caption, "number": i, "tags": ["a"] * (i % 3)}


FEATURES = Features(photo=Image(), text=Value("string"), number=Value("int16"), tags=List(Value("string")))


@pytest.fixture
def rows():
    return Dataset.from_list(list(records()), FEATURES)


@pytest.fixture
def packed(rows):
    def make(folder: str, source=rows, **settings):
        settings = {"size": 24, "rows_per_shard": 7, "workers": 0, **settings}
        return pack(source, Path(folder), "made up", **settings)

    return make


def contents(folder: str) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_read_is_written_and_skipped_by_reason(packed):
    manifest = packed("out")
    assert manifest["read"] == ROWS
    assert manifest["skipped"] == {"not_an_image": 1, "no_image": 1, "no_caption": 1, "duplicate_row": 1}
    assert manifest["written"] == ROWS - 4
    told = [json.loads(line) for line in Path("out/skipped.jsonl").read_text().splitlines()]
    assert [(line["key"], line["reason"]) for line in told] == [
        ("row 3", "not_an_image"),
        ("row 17", "no_image"),
        ("row 21", "no_caption"),
        ("row 30", "duplicate_row"),
    ]
    assert told[0]["source"] == "3.png" and told[0]["sha256"] == hashlib.sha256(b"<html>").hexdigest()
    assert told[3]["message"] == "as row 5"


@pytest.mark.parametrize("form", ["jpeg", "uint8"])
def test_a_packed_folder_is_a_data_set_like_any_other(packed, rows, form):
    packed("out", form=form)
    back = load_rows("out")
    assert back.features == FEATURES and back.column_names == rows.column_names
    assert back["number"][:] == [i for i in range(ROWS) if i not in (*BAD, 30)]
    assert all(file["filename"].endswith(".arrow") for file in back.cache_files)  # memory-mapped
    for row in back.cast_column("photo", Image(decode=False)).select([0, 11, 35]):
        source = rows[row["number"]]
        assert (row["text"], row["tags"]) == (source["text"], source["tags"])
        image, wanted = open_image(row["photo"]), shrink(open_image(source["photo"]), 24)
        assert image.size == wanted.size and min(image.size) == 24
        worst = np.abs(np.asarray(image).astype(int) - np.asarray(wanted)).mean()
        assert worst == 0 if form == "uint8" else worst < 25


def test_uint8_pixels_are_used_where_they_lie(packed, rows):
    packed("out", form="uint8")
    data = load_rows("out").cast_column("photo", Image(decode=False))[1]["photo"]["bytes"]
    wanted = np.asarray(shrink(open_image(rows[1]["photo"]), 24))
    header = b"P6\n%d %d\n255\n" % (wanted.shape[1], wanted.shape[0])
    assert data[: len(header)] == header
    assert np.array_equal(np.frombuffer(data, np.uint8, offset=len(header)).reshape(wanted.shape), wanted)


def test_images_are_never_enlarged(packed):
    packed("out", size=1000, form="uint8")
    assert load_rows("out")[0]["photo"].size == (60, 48)


@pytest.mark.parametrize(
    ("duplicates", "left_out"),
    [
        ("rows", {"duplicate_row": 1}),
        ("images", {"duplicate_image": 2}),
        ("near", {"duplicate_image": 2, "near_duplicate": 1}),
        ("none", {}),
    ],
)
def test_what_counts_as_a_duplicate(packed, rows, duplicates, left_out):
    file = io.BytesIO()
    rows[8]["photo"].save(file, "JPEG", quality=60)
    again = {"photo": {"bytes": file.getvalue(), "path": None}, "text": "once more", "number": 99, "tags": []}
    more = datasets.concatenate_datasets([rows, Dataset.from_list([again], FEATURES)])
    skipped = packed("out", more, duplicates=duplicates)["skipped"]
    assert {reason: n for reason, n in skipped.items() if "duplicate" in reason} == left_out


@pytest.mark.parametrize("form", ["jpeg", "uint8"])
def test_neither_processes_nor_a_stream_change_a_byte(packed, rows, form):
    packed("alone", form=form)
    packed("together", form=form, workers=2)
    assert contents("alone") == contents("together")
    stream = IterableDataset.from_generator(records, features=FEATURES)
    packed("stream", stream, form=form)
    shards = [name for name in contents("alone") if name.endswith(".arrow")]
    assert len(shards) == 6
    assert {name: contents("stream")[name] for name in shards} == {name: contents("alone")[name] for name in shards}


def test_limit_takes_the_first_rows(packed):
    stream = IterableDataset.from_generator(records, features=FEATURES)
    manifest = packed("out", stream, limit=10)
    assert (manifest["read"], manifest["written"]) == (10, 9)


def _slowly(folder: Path) -> None:
    os.setsid()
    rows = Dataset.from_list(list(records()), FEATURES)
    pack(rows, folder, "made up", size=24, rows_per_shard=2, workers=2, duplicates="near", report=_nap)


def _nap(read: int, skipped: object) -> None:
    time.sleep(0.05)


def test_a_killed_packing_goes_on_and_ends_with_the_same_bytes(rows):
    whole, folder = Path("whole"), Path("killed")
    settings = {"size": 24, "rows_per_shard": 2, "workers": 0, "duplicates": "near"}
    pack(rows, whole, "made up", **settings)
    kept: dict[Path, int] = {}
    for shards in (3, 9, 14):
        process = multiprocessing.get_context("fork").Process(target=_slowly, args=(folder,))
        process.start()
        deadline = time.monotonic() + 60
        while len(list(folder.glob("data-*.arrow"))) < shards and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert not (folder / "state.json").exists()
        with pytest.raises(ArgumentError, match="goes on where it stopped"):
            load_rows(str(folder))
        assert all(path.stat().st_mtime_ns == changed for path, changed in kept.items())  # not made again
        done = len(list((folder / "work").glob("?????.json")))
        kept = {path: path.stat().st_mtime_ns for path in sorted(folder.glob("data-*.arrow"))[:done]}
        assert done >= shards - 1
    pack(rows, folder, "made up", **settings)
    assert all(path.stat().st_mtime_ns == changed for path, changed in kept.items())
    assert contents("killed") == contents("whole")


def _workers_of(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_no_process_outlives_one_that_is_killed():
    process = multiprocessing.get_context("fork").Process(target=_slowly, args=(Path("killed"),))
    process.start()
    deadline = time.monotonic() + 60
    while not list(Path("killed").glob("data-*.arrow")) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(_workers_of(process.pid)) > 1
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    deadline = time.monotonic() + 30
    while _workers_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _workers_of(process.pid) == []


def test_a_whole_folder_is_left_as_it_is(packed):
    first = packed("out")
    before = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    assert packed("out") == first
    assert {path: path.stat().st_mtime_ns for path in Path("out").iterdir()} == before
    with pytest.raises(ArgumentError, match="was packed with size 24, now 32"):
        packed("out", size=32)


def test_a_folder_with_something_else_is_refused(packed):
    Path("out").mkdir()
    Path("out/thesis.txt").write_text("years of work")
    with pytest.raises(ArgumentError, match="not empty"):
        packed("out")
    assert Path("out/thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"form": "bmp"}, "format"),
        ({"duplicates": "some"}, "duplicates"),
        ({"quality": 0}, "quality"),
        ({"size": 0}, "size"),
        ({"image": "phto"}, "image"),
        ({"caption": "txt"}, "caption"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_written(packed, settings, argument):
    with pytest.raises(ArgumentError) as caught:
        packed("out", **settings)
    assert caught.value.argument == argument
    assert not Path("out").exists()


def test_nothing_usable_is_an_error(rows):
    with pytest.raises(ArgumentError, match="no row can be used: 1 not_an_image"):
        pack(rows.select([3]), Path("out"), "made up", workers=0)


def test_the_manifest_vouches_for_every_byte(packed):
    manifest = packed("out")
    for shard in manifest["shards"]:
        file = Path("out", shard["file"])
        assert hashlib.sha256(file.read_bytes()).hexdigest() == shard["sha256"]
        with pa.memory_map(str(file)) as source:
            assert pa.ipc.open_stream(source).read_all().num_rows == shard["rows"]
    assert sum(shard["rows"] for shard in manifest["shards"]) == manifest["written"]


def test_runs_log_the_fingerprint_of_the_manifest(packed):
    manifest = packed("out")
    back = load_rows("out")
    assert fingerprint(back) == manifest["fingerprint"]
    data = CaptionDataModule(train="out", batch_size=4, workers=0)
    assert data.fingerprint == manifest["fingerprint"]
    assert fingerprint(back.select(range(5))) != manifest["fingerprint"]  # a part is other data
    assert fingerprint(back.remove_columns("tags")) != manifest["fingerprint"]
    assert packed("other", size=20)["fingerprint"] != manifest["fingerprint"]
    Path("out").rename("moved")
    assert fingerprint(load_rows("moved")) == manifest["fingerprint"]
