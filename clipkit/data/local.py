"""Files of this machine, and nothing that only looks like one."""

from __future__ import annotations

import difflib
import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

__all__ = ["near_path", "open_file"]


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file to read.

    Args:
        path: Of the file.

    Raises:
        OSError: Where it cannot be opened; for a pipe, a socket or a device too, which would have its reader wait
            without end.
    """
    # Without waiting, which is nothing to a regular file, and all that lets one look at a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = IsADirectoryError(errno.EISDIR, "Is a directory", str(path)) if stat.S_ISDIR(mode) else None
        raise kind or OSError(errno.EINVAL, "Is a pipe, a socket or a device, and no file", str(path))
    return os.fdopen(descriptor, "rb")


def near_path(path: Path) -> str:
    """What is to be said of a path where nothing is: the nearest name there, or that there is no such folder."""
    parent = path.parent
    if not parent.is_dir():
        return f" (not even the folder {str(parent)!r})"
    near = difflib.get_close_matches(path.name, [p.name for p in parent.iterdir()], n=1)
    return f"; did you mean {str(parent / near[0])!r}?" if near else ""
