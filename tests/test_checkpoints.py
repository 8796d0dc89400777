"""Checkpoints survive what can happen while they are written, and afterwards."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import pytest
import torch

from clipkit.checkpoints import DurableCheckpointIO, complete_checkpoints, is_damaged, is_sharded, publish_folder


def content(step, size=1000):
    return {"state_dict": {"w": torch.full((size,), float(step))}, "global_step": step, "epoch": 0}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def io():
    return DurableCheckpointIO("emoji")


def steps(folder, experiment=None):
    return [found.step for found in complete_checkpoints(folder, experiment)]


def test_what_is_written_is_read_and_recorded(io, folder):
    io.save_checkpoint(content(3), folder / "a.ckpt")
    assert torch.equal(
        io.load_checkpoint(folder / "a.ckpt", weights_only=True)["state_dict"]["w"], torch.full((1000,), 3.0)
    )
    entry = json.loads((folder / "manifest.json").read_text())["a.ckpt"]["current"]
    assert entry["sha256"] == hashlib.sha256((folder / "a.ckpt").read_bytes()).hexdigest()
    assert entry["bytes"] == (folder / "a.ckpt").stat().st_size
    assert (entry["step"], entry["finite"], entry["experiment"]) == (3, True, "emoji")
    assert sorted(path.name for path in folder.iterdir()) == ["a.ckpt", "manifest.json"]


def test_two_are_kept_of_a_name_that_is_written_over(io, folder):
    for step in (1, 2, 3):
        io.save_checkpoint(content(step), folder / "last.ckpt")
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "last.previous.ckpt", "manifest.json"]
    assert steps(folder) == [3, 2]


@pytest.mark.parametrize("harm", ["truncated", "flipped", "emptied"])
def test_a_damaged_newest_is_passed_over_loudly(io, folder, harm, caplog):
    for step in (1, 2):
        io.save_checkpoint(content(step), folder / "last.ckpt")
    path = folder / "last.ckpt"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes({"truncated": whole[:-100], "flipped": whole, "emptied": b""}[harm])
    assert is_damaged(path)
    with caplog.at_level(logging.WARNING):
        found = next(complete_checkpoints(folder))
    assert (found.path.name, found.step) == ("last.previous.ckpt", 1)
    assert "last.ckpt is damaged and passed over" in caplog.text
    with pytest.raises(OSError, match=r"last\.ckpt' is damaged: it is not what was written"):
        io.load_checkpoint(path)
    assert io.load_checkpoint(found.path, weights_only=True)["global_step"] == 1


def test_those_of_an_experiment_newest_first_wherever_they_lie(folder):
    for step, (experiment, run) in enumerate([("emoji", "a"), ("other", "b"), ("emoji", "b/deep")], 1):
        DurableCheckpointIO(experiment).save_checkpoint(content(step), folder / run / "x.ckpt")
    assert steps(folder, "emoji") == [3, 1]
    assert steps(folder) == [3, 2, 1]
    assert steps(folder / "nowhere") == []


def test_weights_that_are_not_finite_are_marked(io, folder):
    io.save_checkpoint({"state_dict": {"w": torch.tensor([1.0, float("nan")])}, "global_step": 1}, folder / "a.ckpt")
    assert [found.finite for found in complete_checkpoints(folder)] == [False]


def test_a_file_that_nothing_is_known_of_is_not_called_damaged(io, folder):
    folder.mkdir()
    torch.save(content(1), folder / "foreign.ckpt")
    assert not is_damaged(folder / "foreign.ckpt")
    assert io.load_checkpoint(folder / "foreign.ckpt", weights_only=True)["global_step"] == 1
    assert steps(folder) == []


def test_a_full_disk_leaves_the_one_before_and_the_run_goes_on(io, folder, caplog):
    """A real refusal by the system, in a child whose files may not grow past 20 kB."""
    io.save_checkpoint(content(1), folder / "last.ckpt")
    io.save_checkpoint(content(2), folder / "best.ckpt")

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        io.save_checkpoint(content(3, size=100_000), folder / "last.ckpt")
        io.remove_checkpoint(folder / "best.ckpt")  # what Lightning does once it believes it has a better one
        os._exit(0)

    child = forked(fill)
    child.join(60)
    assert child.exitcode == 0
    assert steps(folder) == [2, 1]
    assert not list(folder.glob(".*"))


def test_a_refusal_is_a_warning(io, folder, monkeypatch, caplog):
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    io.save_checkpoint(content(1), folder / "last.ckpt")
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(os, "fsync", refuse)
        io.save_checkpoint(content(2), folder / "last.ckpt")
    assert "last.ckpt was not saved ([Errno 28] No space left on device); the run goes on" in caplog.text
    assert steps(folder) == [1]
    io.remove_checkpoint(folder / "last.ckpt")
    for step in (3, 4):
        io.save_checkpoint(content(step), folder / f"{step}.ckpt")
    assert steps(folder) == [4, 3, 1]
    io.save_checkpoint(content(5), folder / "5.ckpt")
    io.remove_checkpoint(folder / "4.ckpt")  # removed is what was to be before, too, once a save went well
    assert steps(folder) == [5, 4, 3]


def test_what_was_removed_leaves_nothing(io, folder):
    for name, step in itertools.product("ab", (1, 2)):
        io.save_checkpoint(content(step), folder / f"{name}.ckpt")
    io.remove_checkpoint(folder / "a.ckpt")
    assert sorted(path.name for path in folder.iterdir()) == ["b.ckpt", "b.previous.ckpt", "manifest.json"]
    assert list(json.loads((folder / "manifest.json").read_text())) == ["b.ckpt"]
    io.save_checkpoint(content(3), folder / ".try.ckpt")  # as Lightning's tuner does
    io.remove_checkpoint(folder / ".try.ckpt")
    assert list(json.loads((folder / "manifest.json").read_text())) == ["b.ckpt"]
    torch.save(content(1), folder / "foreign.ckpt")
    io.remove_checkpoint(folder / "foreign.ckpt")
    assert not (folder / "foreign.ckpt").exists()


def names(folder):
    return sorted(path.stem for path in folder.glob("*.ckpt"))


def one_after_another(io, folder, count, start=1, **more):
    """As ModelCheckpoint does that keeps one."""
    for step in range(start, start + count):
        io.save_checkpoint({**content(step), **more}, folder / f"{step}.ckpt")
        if (folder / f"{step - 1}.ckpt").exists():
            io.remove_checkpoint(folder / f"{step - 1}.ckpt")


def test_the_one_before_stays_until_a_newer_one_takes_its_place(io, folder, monkeypatch):
    read = []
    monkeypatch.setattr("clipkit.checkpoints.manifest.digest_of", lambda path: read.append(path.name) or summed(path))
    for step in range(1, 6):
        one_after_another(io, folder, 1, step)
        assert names(folder) == [str(kept) for kept in (step - 1, step) if kept]
    assert len(read) == 5  # each is read back once, and not again when others are removed
    newest = folder / "5.ckpt"
    newest.write_bytes(newest.read_bytes()[:-10])
    assert steps(folder) == [4]


def summed(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_two_that_stay_are_whole_finite_and_of_the_same_experiment(io, folder):
    one_after_another(io, folder, 2)
    one_after_another(io, folder, 3, start=3, state_dict={"w": torch.tensor(float("nan"))})
    assert names(folder) == ["1", "2", "5"]
    DurableCheckpointIO("other").save_checkpoint(content(9), folder / "other.ckpt")
    (folder / "2.ckpt").write_bytes(b"")
    one_after_another(DurableCheckpointIO("emoji"), folder, 1, start=6)  # another process, which has read nothing yet
    assert names(folder) == ["1", "6", "other"]
    one_after_another(io, folder, 1, start=7)
    assert names(folder) == ["6", "7", "other"]


def test_what_a_run_goes_on_from_is_wanted_again(io, folder):
    one_after_another(io, folder, 3)
    (folder / "3.ckpt").write_bytes(b"")
    again = DurableCheckpointIO("emoji")
    again.load_checkpoint(folder / "2.ckpt", weights_only=True)
    for step in range(4, 8):
        again.save_checkpoint(content(step), folder / "last.ckpt")
    again.save_checkpoint(content(8), folder / "8.ckpt")
    again.remove_checkpoint(folder / "8.ckpt")
    one_after_another(DurableCheckpointIO("emoji"), folder, 4, start=9)
    assert names(folder) == ["11", "12", "2", "3", "last", "last.previous"]  # Lightning has let go neither 2 nor 3


def test_a_disk_that_holds_no_manifest_stops_no_removing(io, folder, monkeypatch, caplog):
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    one_after_another(io, folder, 2)
    monkeypatch.setattr(os, "fsync", refuse)
    io.remove_checkpoint(folder / "1.ckpt")
    assert "1.ckpt was not removed ([Errno 28] No space left on device)" in caplog.text
    assert steps(folder) == [2, 1]


def publish_shards(folder, step, name="last.ckpt"):
    partial = folder / f".{name}.partial"
    partial.mkdir(parents=True)
    for rank in (0, 1):
        (partial / f"__{rank}_0.distcp").write_bytes(bytes([step]) * 1000)
    torch.save({"global_step": step}, partial / "meta.pt")
    publish_folder(partial, folder / name, {"global_step": step}, finite=True, experiment="emoji")


def test_a_folder_of_shards_is_kept_as_a_file_is(io, folder):
    for step in (1, 2, 3):
        publish_shards(folder, step)
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "last.previous.ckpt", "manifest.json"]
    assert steps(folder, "emoji") == [3, 2]
    assert is_sharded(folder / "last.ckpt") and not is_sharded(folder)
    (folder / "last.ckpt" / "__1_0.distcp").unlink()
    assert is_damaged(folder / "last.ckpt")
    assert steps(folder) == [2]
    for step in (4, 5):
        publish_shards(folder, step, "next.ckpt")
    io.remove_checkpoint(folder / "last.ckpt")
    assert names(folder) == ["next", "next.previous"]


def test_shards_take_the_place_of_a_file_and_a_file_of_shards(io, folder):
    for step, save in enumerate([io.save_checkpoint, publish_shards, publish_shards, io.save_checkpoint], 1):
        save(content(step), folder / "last.ckpt") if save == io.save_checkpoint else save(folder, step)
        assert steps(folder) == [step, step - 1][: min(step, 2)]


@pytest.mark.parametrize("time", range(7))
def test_killed_while_a_folder_gets_its_name(folder, time):
    for step in (1, 2):
        publish_shards(folder, step)

    def die() -> None:
        calls, original = iter(range(1000)), Path.replace

        def counted(*args: object) -> object:
            if next(calls) == time:
                os._exit(9)
            return original(*args)

        Path.replace = counted
        publish_shards(folder, 3)
        os._exit(0)

    child = forked(die)
    child.join(60)
    assert child.exitcode in (0, 9)
    assert steps(folder)[0] in (2, 3)


@pytest.mark.parametrize("call", ["replace", "link", "fsync"])
@pytest.mark.parametrize("time", range(5))
def test_killed_at_every_system_call(io, folder, call, time):
    """Each save dies at its n-th renaming, linking or flush; the next one goes on from what is there."""
    io.save_checkpoint(content(1), folder / "last.ckpt")

    def die() -> None:
        calls = iter(range(1000))
        owner, original = (Path, Path.replace) if call == "replace" else (os, getattr(os, call))

        def counted(*args: object) -> object:
            if next(calls) == time:
                os._exit(9)
            return original(*args)

        setattr(owner, call, counted)
        io.save_checkpoint(content(2), folder / "last.ckpt")
        os._exit(0)

    for _ in range(2):
        child = forked(die)
        child.join(60)
        assert child.exitcode in (0, 9)
        found = next(complete_checkpoints(folder))
        assert found.step in (1, 2)
        assert io.load_checkpoint(found.path, weights_only=True)["global_step"] == found.step
    io.save_checkpoint(content(5), folder / "last.ckpt")
    assert steps(folder)[0] == 5 and len(steps(folder)) == 2


def forked(work, *arguments):
    """A started child; on one thread, for those of the parent did not come along."""

    def begin() -> None:
        torch.set_num_threads(1)
        work(*arguments)

    child = multiprocessing.get_context("fork").Process(target=begin)
    child.start()
    return child


def _save_for_ever(folder: Path) -> None:
    io = DurableCheckpointIO("emoji")
    for step in range(1, 10**6):
        io.save_checkpoint(content(step, size=200_000), folder / ("last.ckpt" if step % 3 else f"{step}.ckpt"))


@pytest.mark.parametrize("seed", range(8))
def test_killed_while_writing(folder, seed):
    """SIGKILL at a random moment: a complete checkpoint is there every time, at most one save old."""
    DurableCheckpointIO("emoji").save_checkpoint(content(0), folder / "last.ckpt")
    child = forked(_save_for_ever, folder)
    time.sleep(0.05 + 0.037 * seed)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    found = next(complete_checkpoints(folder))
    assert torch.load(found.path, weights_only=True)["global_step"] == found.step
    names = {path for path in folder.glob("*.ckpt") if not path.name.endswith(".previous.ckpt")}
    assert not [path for path in names if is_damaged(path)]


def test_a_manifest_that_is_damaged_is_put_aside_and_told(tmp_path, caplog):
    for text in (b'{"last.ckpt": ', b"\xff\xfe"):
        folder = tmp_path / f"{len(text)}"
        io = DurableCheckpointIO("emoji")
        io.save_checkpoint(content(1), folder / "last.ckpt")
        (folder / "manifest.json").write_bytes(text)
        assert list(complete_checkpoints(folder, "emoji")) == []
        assert "manifest.json is damaged and put aside" in caplog.text and "name one to --resume" in caplog.text
        assert (folder / "manifest.json.damaged").read_bytes() == text
        io.save_checkpoint(content(2), folder / "next.ckpt")
        assert [one.step for one in complete_checkpoints(folder, "emoji")] == [2]
        caplog.clear()


@pytest.mark.parametrize("text", ["[1, 2]", '{"shards": ["a"], "rows": 5}', '{"a": {"b": {"c": 1}}}', "nonsense"])
def test_another_programs_manifest_is_none_of_ours(text, tmp_path, caplog):
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "manifest.json").write_text(text)
    DurableCheckpointIO("emoji").save_checkpoint(content(1), tmp_path / "run" / "last.ckpt")
    assert [one.step for one in complete_checkpoints(tmp_path, "emoji")] == [1]
    assert caplog.text == ""


def test_what_a_killed_sharded_save_left_is_no_hindrance(tmp_path):
    (tmp_path / ".last.ckpt.partial").mkdir()
    (tmp_path / ".last.ckpt.partial" / "__0_0.distcp").write_bytes(b"half")
    DurableCheckpointIO("emoji").save_checkpoint(content(1), tmp_path / "last.ckpt")
    assert [one.step for one in complete_checkpoints(tmp_path, "emoji")] == [1]
