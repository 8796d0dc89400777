"""A process that reads sound sets, then bad ones, and prints how far memory rose by the latter, as JSON.

``python high_water.py SOUND BAD`` where each is ``INDEXED,STREAMED``. Printed are kB: this process, then the hungriest
of its workers; first for the bad sets, then for the indexed one where sizes in headers are not looked at, so that what
is measured is known to move.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from pathlib import Path

from PIL import Image

from clipkit.data import CaptionDataModule, arrays, images
from clipkit.tokens import read_tokenizer
from clipkit.types import InputSpec

SPEC = InputSpec((8, 8), (0.5,) * 3, (0.5,) * 3, "bicubic", read_tokenizer("emoji"), 16, "longest")


def read(sources: str) -> None:
    """Every sample of the sets, in this process and then by two workers."""
    for workers in (0, 2):
        for source in sources.split(","):
            options = {"epoch_steps": 12} if source.endswith(".tar") else {}
            data = CaptionDataModule(source, batch_size=2, workers=workers, **options)
            data.inputs = SPEC
            assert list(data.train_dataloader())


def peaks() -> list[int]:
    """Most kB that this process held, and that any held which it started and which ended."""
    (own,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())  # rusage has the parent's in it
    return [int(own), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]


def main(sound: str, bad: str) -> None:
    read(sound)
    levels = [peaks()]
    read(bad)
    levels.append(peaks())
    images.MOST_PIXELS = arrays.MOST_PIXELS = 1 << 40
    Image.MAX_IMAGE_PIXELS = None
    read(bad.split(",")[0])
    levels.append(peaks())
    print(json.dumps([[after - levels[0][i] for i, after in enumerate(level)] for level in levels[1:]]))


if __name__ == "__main__":
    main(*sys.argv[1:])
