"""The loader beside another library's, on the same images."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from datasets import load_from_disk

from clipkit.benchmarking.data import BATCH, Subject, loader_pass, one_thread, transform_pass
from clipkit.benchmarking.timing import interleaved, ratio, seconds_a_sample
from clipkit.data.pack import pack

__all__ = ["Rival", "compare"]

PAIRS = (("files", "files"), ("files", "uint8"), ("jpeg", "jpeg"))
"""What the other library reads, and what clipkit does: the files as they are, or packed to 256 pixels."""


class Rival(Protocol):
    """Another library's way from files to batches."""

    def transform(self) -> None:
        """Make pixels of every image once."""

    def loader(self, batch_size: int) -> Any:
        """Batches of all images, by one worker that lives on from epoch to epoch."""


def compare(subject: Subject, rival: Callable[[Subject, Path], Rival], rounds: int) -> list[dict[str, Any]]:
    """Measure both in turn, per image in one thread and by the loader with one worker.

    Args:
        subject: What is measured.
        rival: Makes the other side, of a subject and a folder it may write to.
        rounds: How often each side runs.

    Returns:
        A row for each comparison: ``what``, what each side reads, milliseconds a sample, and ``times_as_fast``.
    """
    with tempfile.TemporaryDirectory() as folder:
        ours = {"files": subject}
        for form in ("jpeg", "uint8"):
            captions, image = list(subject.recipe.choice.columns), subject.recipe.image
            place = Path(folder, form)
            pack(subject.rows, place, "", form=form, image=image, caption=captions, duplicates="none", workers=0)
            ours[form] = subject._replace(rows=load_from_disk(place))
        theirs = {name: rival(ours[name], Path(folder, f"{name} as files")) for name in ("files", "jpeg")}
        passes: dict[str, Callable[[], float | None]] = {
            f"ours {name}": transform_pass(one) for name, one in ours.items()
        }
        passes |= {f"theirs {name}": one.transform for name, one in theirs.items()}
        alone = one_thread(lambda: interleaved(passes, rounds))
        alone = {name: [one / len(subject.rows) for one in seconds] for name, seconds in alone.items()}
        passes = {f"ours {name}": loader_pass(one, 1) for name, one in ours.items()}
        passes |= {f"theirs {name}": _loader_pass(one) for name, one in theirs.items()}
        loaded = interleaved(passes, rounds)
    return [
        _row(what, base, form, seconds)
        for what, seconds in (("transform", alone), ("loader", loaded))
        for base, form in PAIRS
    ]


def _loader_pass(rival: Rival) -> Callable[[], float]:
    loader = rival.loader(BATCH)
    return lambda: seconds_a_sample(loader, BATCH)


def _row(what: str, base: str, form: str, seconds: dict[str, list[float]]) -> dict[str, Any]:
    theirs, ours = seconds[f"theirs {base}"], seconds[f"ours {form}"]
    times = {"theirs_ms": 1000 * statistics.median(theirs), "ours_ms": 1000 * statistics.median(ours)}
    return {"what": what, "theirs": base, "ours": form, **times, "times_as_fast": ratio(theirs, ours)._asdict()}
