"""Malformed shards and samples of every kind through the real loader: all is counted, the rest comes once a turn."""

from __future__ import annotations

import gzip
import io
import os
from collections import Counter, defaultdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clipkit.data import CaptionDataModule, unpack_skips
from clipkit.data.hashes import stable_id

from .malformed import BESIDE, CAPTIONS, HTML, IMAGES, LEGAL, claims, links, members, picture, tar


def opened(data):
    """An archive without its end."""
    return data.rstrip(b"\0") + b"\0" * (-len(data.rstrip(b"\0")) % 512)


class Corpus:
    """Shards in a folder, and what must come of each: the reasons, and the keys of what is used."""

    def __init__(self, folder):
        self.folder, self.kinds = folder, 0
        self.reasons, self.used = defaultdict(Counter), defaultdict(list)

    def add(self, shard, data, used=(), **reasons):
        name = f"{self.folder}/{shard}.tar"
        if data is not None:
            with open(name, "wb") as file:
                file.write(data)
        self.reasons[name].update(reasons)
        self.used[name] += used
        self.kinds += sum(reasons.values())

    def samples(self, shard, kinds):
        """Kind to (members, reason); a good sample before each."""
        parts, used, reasons = [], [], Counter()
        for number, (kind, (own, reason)) in enumerate(kinds.items()):
            parts += [*members(f"{shard} good {number}"), *members(kind, **own)]
            used += [f"{shard} good {number}", *([] if reason else [kind])]
            reasons.update([reason] if reason else [])
        self.add(shard, tar(parts), used, **reasons)
        self.kinds += sum(reason is None for _, reason in kinds.values())


def good(name, count=6):
    return [part for number in range(count) for part in members(f"{name}{number}")]


def keys(name, count=6):
    return [f"{name}{number}" for number in range(count)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    made = Corpus(tmp_path_factory.mktemp("bad"))
    made.samples("images", {kind: ({"image": data}, reason) for kind, (data, reason) in IMAGES.items()})
    made.samples("legal", {kind: ({"image": data}, None) for kind, data in LEGAL.items()})
    made.samples("captions", {kind: ({"txt": text.encode()}, None) for kind, text in CAPTIONS.items()})
    made.samples("beside", BESIDE)
    lonely = [("a.txt", b"no image"), ("b.json", b"{}"), ("c.cls", b"5"), ("README", b"no sample")]
    made.add("lonely", tar([*lonely, *good("l")]), keys("l"), missing_member=3)
    twice = [*members("x"), *members("y"), *members("x"), *good("t")]
    made.add("twice", tar(twice), ["x", "y", *keys("t")], duplicate_key=1)
    again = [*members("x"), ("x.png", picture()), ("x.PNG", picture()), *good("a")]
    made.add("again", tar(again), ["x", *keys("a")], duplicate_member=2)
    out = [("../x.png", b"1"), ("/etc/x.png", b"1"), ("a/../../x.png", b"1")]
    made.add("out", tar([*out, *good("o")]), keys("o"), unsafe_name=3)
    made.add("links", opened(links()) + tar(good("n")), keys("n"), not_a_file=3)
    made.add("terabyte", opened(tar(good("k"))) + claims(1 << 40) + b"little", keys("k"), too_large=1, damaged_shard=1)
    made.add("large", claims(300 << 20) + bytes(300 << 20) + tar(good("m")), keys("m"), too_large=1)
    data = tar(good("c", 9))
    made.add("cut", data[: data.index(b"c7.png") + 600], keys("c", 7), damaged_shard=1)
    data = bytearray(tar(good("h")))
    place = data.index(b"h3.png")
    data[place : place + 100] = b"\xff" * 100
    made.add("header", data, [f"h{i}" for i in (0, 1, 2, 4, 5)], damaged_shard=1, missing_member=1)
    made.add("zero", b"", damaged_shard=1)
    made.add("empty", tar([]))
    made.add("html", HTML * 20, damaged_shard=1)
    made.add("packed", gzip.compress(tar(good("z"))), damaged_shard=1)
    made.add("folder", None, unreadable_file=1)
    (made.folder / "folder.tar").mkdir()
    made.add("pipe", None, unreadable_file=1)
    os.mkfifo(made.folder / "pipe.tar")  # nobody will ever write to it
    made.add("nowhere", None, missing_file=1)
    (made.folder / "nowhere.tar").symlink_to("nothing")
    if os.geteuid():  # root may read anything
        made.add("locked", tar(good("f")), unreadable_file=1)
        (made.folder / "locked.tar").chmod(0)
    return made


@pytest.fixture
def stream(spec):
    def make(train, **options):
        data = CaptionDataModule(str(train), **{"workers": 0, "epoch_steps": 10, "window": 60, **options})
        data.inputs = spec
        return data

    return make


def shown(batch):
    return (
        batch.concept.tolist(),
        batch.image.sum().item(),
        batch.tokens.sum().item(),
        unpack_skips(batch.extra["skipped"]),
    )


def turns_of(corpus, loaders):
    """For each loader what it read of each shard, and what must come of these in a turn."""
    for found in loaders:
        skips = [one for _, _, _, left_out in found for one in left_out]
        names = {stable_id(f"{name} {key}"): name for name, keys in corpus.used.items() for key in keys}
        used = [row for rows, *_ in found for row in rows]
        yield {one.source for one in skips} | {names[row] for row in used}, used, skips


@pytest.mark.parametrize("workers", [0, 2])
def test_a_turn_counts_all_and_uses_the_rest_once(corpus, stream, workers):
    assert corpus.kinds >= 100
    total = sum(map(len, corpus.used.values()))
    data = stream(corpus.folder, workers=workers, batch_size=2, epoch_steps=total, extra=["width"])
    batches = [shown(batch) for batch in data.train_dataloader()]
    seen = set()
    for own, used, skips in turns_of(corpus, [batches[i :: max(1, workers)] for i in range(max(1, workers))]):
        assert not seen & own
        seen |= own
        expected = sorted(stable_id(f"{name} {key}") for name in own for key in corpus.used[name])
        assert sorted(used[: len(expected)]) == expected
        reasons = sum((Counter({(name, why): n for why, n in corpus.reasons[name].items()}) for name in own), Counter())
        assert Counter((one.source, one.reason) for one in skips[: reasons.total()]) == reasons
        assert len(skips) > reasons.total()  # they are met again in the next turn
    assert seen == {name for name in corpus.reasons if corpus.reasons[name] or corpus.used[name]}
    again = stream(corpus.folder, workers=workers, batch_size=2, epoch_steps=total, extra=["width"])
    assert [shown(batch) for batch in again.train_dataloader()] == batches


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_in_the_middle_of_it(corpus, stream, workers):
    def make():
        return stream(corpus.folder, workers=workers, batch_size=4, epoch_steps=30, window=25)

    whole, steps, states = make(), [], []
    for batch in whole.train_dataloader():
        whole.advance(1)
        steps.append(shown(batch))
        file = io.BytesIO()
        torch.save(whole.state_dict(), file)
        states.append(file.getvalue())
    worst = sorted(range(3, 26), key=lambda i: -len(steps[i][3]))[:3]
    assert len(steps[worst[-1]][3]) >= 3
    for step in worst:
        rest = make()
        rest.load_state_dict(torch.load(io.BytesIO(states[step - 1]), weights_only=True))
        assert [shown(batch) for batch in rest.train_dataloader()][: 30 - step] == steps[step:]


def rows_of(begin, end):
    images = [{"bytes": picture(size=(9 + i, 8)), "path": None} for i in range(begin, end)]
    return pa.table({"image": images, "text": [f"thing {i}" for i in range(begin, end)]})


TABLES = {
    "foreign schema": (lambda path: pq.write_table(pa.table({"a": [1], "b": ["x"]}), path), "damaged_shard"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:1500]), "damaged_shard"),
    "zero": (lambda path: path.write_bytes(b""), "damaged_shard"),
    "html": (lambda path: path.write_bytes(HTML), "damaged_shard"),
    "zeros within": (lambda path: path.write_bytes(path.read_bytes()[:500] + bytes(900) + path.read_bytes()[1400:]),
                     "damaged_shard"),
    "gone": (lambda path: path.unlink(), "missing_file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_table_among_others(stream, tmp_path, kind, workers):
    for part in range(4):
        pq.write_table(rows_of(part * 6, part * 6 + 6), tmp_path / f"part-{part}.parquet")
    harm, reason = TABLES[kind]
    if kind != "gone":
        harm(tmp_path / "part-2.parquet")
    data = stream(f"{tmp_path}/part-*.parquet", streaming=True, workers=workers, batch_size=2, epoch_steps=24)
    if kind == "gone":
        harm(tmp_path / "part-2.parquet")
    batches = [shown(batch) for batch in data.train_dataloader()]
    assert len({row for rows, *_ in batches for row in rows}) == 18
    skips = [one for _, _, _, left_out in batches for one in left_out]
    assert {(one.source, one.reason) for one in skips} == {(f"{tmp_path}/part-2.parquet", reason)}
