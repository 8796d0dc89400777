"""The icons, from a small package of the same layout; a real one is too large to test with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import clipkit.data.build_icons as build_icons_module
from clipkit.cli.main import main
from clipkit.data import CaptionDataModule, load_rows
from clipkit.data.build_icons import LICENCES, build_icons, find_package
from clipkit.types import ArgumentError

pytest.importorskip("resvg_py", reason="it draws the icons, and comes with an extra")

SQUARE, DISC = '<path fill="currentColor" d="M4 4h16v16H4z"/>', '<circle fill="#f00" cx="8" cy="8" r="6"/>'


def collection(prefix: str, title: str, spdx: str | None, icons: dict, **more) -> dict:
    licence = {"title": spdx or "of its own", "url": f"https://example.org/{prefix}/LICENSE"}
    licence |= {"spdx": spdx} if spdx else {}
    info = {"name": title, "author": {"name": f"Author of {prefix}", "url": "https://example.org"}, "license": licence}
    return {"prefix": prefix, "info": info, "icons": {k: {"body": v} for k, v in icons.items()}, **more}


@pytest.fixture
def package(own_folder):
    many = {f"box-{i}": SQUARE.replace("4 4", f"{i % 7} {i // 7}") for i in range(30)}
    plain = collection("plain", "Plain Boxes", "MIT", {**many, "white-box": SQUARE.replace("currentColor", "#fff")})
    plain |= {"width": 24, "height": 24, "categories": {"Boxes / Firm": ["box-1", "box-2"], "Second": ["box-1"]}}
    plain["aliases"] = {"first_crate": {"parent": "box-1"}, "box-turned": {"parent": "box-1", "rotate": 1}}
    plain["icons"]["old-box"] = {"body": SQUARE, "hidden": True}
    round_ = collection("round", "Round Things", "CC-BY-4.0", {"red-disc": DISC, "broken": "<path d='"})
    sets = [plain, round_, collection("copyleft", "Copyleft", "GPL-3.0-or-later", {"gnu": DISC})]
    sets += [
        collection("homely", "Homely", "CC-BY-NC-4.0", {"cat": DISC}),
        collection("bare", "Bare", None, {"x": DISC}),
    ]
    folder = own_folder / "node_modules/@iconify/json"
    (folder / "json").mkdir(parents=True)
    for data in sets:
        (folder / "json" / f"{data['prefix']}.json").write_text(json.dumps(data))
    (folder / "collections.json").write_text(json.dumps({data["prefix"]: data["info"] for data in sets}))
    (folder / "package.json").write_text('{"version": "9.9.9"}')
    return find_package(own_folder)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(build_icons_module, "ICONS_PER_SHARD", 8)


def contents(folder: str) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_every_icon_is_counted(package):
    counts = build_icons(package, Path("out"), workers=0)
    assert counts.pop("bytes") > 0
    assert counts == {"read": 33, "written": 31, "blank": 1, "not_drawable": 1, "sets": 2}
    assert len(load_rows("out")) == 31
    assert not Path("out/work").exists()


def test_a_row_says_what_its_author_said(package):
    build_icons(package, Path("out"), size=48, workers=0)
    rows = {row["icon"]: row for row in load_rows("out")}
    row = rows["plain:box-1"]
    assert (row["name"], row["captions"]) == ("box 1", ["box 1", "first crate"])  # turned, it is another drawing
    assert (row["style"], row["category"], row["licence"]) == ("Plain Boxes", "Boxes / Firm", "MIT")
    assert rows["plain:box-5"]["category"] == ""
    assert "plain:old-box" not in rows
    disc = np.asarray(rows["round:red-disc"]["image"].convert("RGB"))
    assert disc.shape == (48, 48, 3)
    assert disc[24, 24].tolist() == [255, 0, 0] and disc[0, 0].tolist() == [255, 255, 255]


def test_only_licences_that_allow_it(package):
    build_icons(package, Path("out"), workers=0)
    rows = load_rows("out")
    assert set(rows["licence"]) == {"MIT", "CC-BY-4.0"} < set(LICENCES)
    assert not [licence for licence in LICENCES if "GPL" in licence or "NC" in licence]
    for name in ("copyleft", "homely", "bare"):
        with pytest.raises(ArgumentError, match=f"'{name}' is under"):
            build_icons(package, Path("other"), sets=[name])


def test_the_card_names_every_author_and_what_was_left_out(package):
    build_icons(package, Path("out"), workers=0)
    card = Path("out/README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nconfigs:")
    assert "31 drawings of 64 x 64 pixels from 2 sets" in card
    assert "`@iconify/json@9.9.9`" in card
    assert "| plain | Plain Boxes | [Author of plain](https://example.org)" in card
    assert "[CC-BY-4.0](https://example.org/round/LICENSE) | 1 |" in card
    assert "bare (none), copyleft (GPL-3.0-or-later), homely (CC-BY-NC-4.0)" in card


def test_a_stopped_build_goes_on_and_ends_with_the_same_bytes(package):
    build_icons(package, Path("whole"), workers=2)

    def stop(read, skipped):
        if read >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_icons(package, Path("stopped"), workers=0, report=stop)
    with pytest.raises(ArgumentError, match=r"`clipkit data build-icons stopped`.* goes on"):
        load_rows("stopped")
    first = {path: path.stat().st_mtime_ns for path in Path("stopped").glob("*.arrow")}
    assert len(first) == 2
    with pytest.raises(ArgumentError, match="another size"):
        build_icons(package, Path("stopped"), size=32, workers=0)
    build_icons(package, Path("stopped"), workers=0)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert contents("stopped") == contents("whole")
    with pytest.raises(ArgumentError, match="not empty"):
        build_icons(package, Path("whole"))


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-100])])
def test_a_shard_that_is_not_whole_is_drawn_again(package, harm):
    counts = build_icons(package, Path("whole"), workers=0)

    def stop(read, skipped):
        if read >= 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_icons(package, Path("stopped"), workers=0, report=stop)
    files = sorted(Path("stopped").glob("*.arrow"))
    assert len(files) == 3
    harm(files[1])
    before = {path: path.stat().st_mtime_ns for path in (files[0], files[2])}
    assert build_icons(package, Path("stopped"), workers=0) == counts
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents("stopped") == contents("whole")


def test_the_shipped_experiment_trains_on_them(package, no_pictures, capsys):
    """An epoch of experiments/icons.yaml on a folder that the command built, smaller where size takes time only."""
    assert main(["data", "build-icons", "icons", "--from", ".", "--workers", "0"]) == 0
    words = ["fit", "-c", "icons", "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.devices=1"]
    words += ["--trainer.precision=32-true", "--trainer.logger=false", "--trainer.default_root_dir=."]
    words += ["--data.batch_size=4", "--data.workers=0", "--data.val_fraction=0.3"]
    words += ["--model.model.vision.name=resnet10t", "--model.model.text.config.num_hidden_layers=1"]
    assert main(words) == 0, capsys.readouterr().err
    assert "text_to_image_R@1" in capsys.readouterr().out
    steps = [torch.load(path, weights_only=True)["global_step"] for path in Path().rglob("*.ckpt")]
    assert len(steps) == 2 and min(steps) >= 4  # the best and the last


def test_they_are_a_data_set_like_any_other(package):
    build_icons(package, Path("out"), workers=0)
    data = CaptionDataModule(train="out", val_fraction=0.3, caption="captions", concept="name", batch_size=4)
    assert len(data.train_rows) + len(data.val_rows) == 31


def test_a_folder_without_the_package_is_told():
    with pytest.raises(ArgumentError, match=r"holds no collections\.json"):
        find_package(Path())


def test_an_unknown_set_is_told(package):
    with pytest.raises(ArgumentError, match="'mdi' is not one of 2, such as plain, round"):
        build_icons(package, Path("out"), sets=["mdi"])
