"""Files that are read in places, such as parquet: here or on other machines, with the same patience as tars."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO, cast

from clipkit.data.local import open_file
from clipkit.data.remote import USUAL, Persistent, Ranges, Retry, is_remote

__all__ = ["open_seekable"]


def open_seekable(path: str, retry: Retry = USUAL) -> BinaryIO:
    """A file to be read in any places.

    Args:
        path: Of a local file, or a URL without wildcards.
        retry: How long to try.

    Returns:
        A binary file with ``read``, ``seek`` and ``tell``. Of a remote one the bytes asked for are fetched, each time
        anew and no others; ``Unusable`` is raised as by ``open_forwards``, and where a server knows no ranges.

    Raises:
        OSError: Where a local file cannot be opened.
    """
    if not is_remote(path):
        return open_file(Path(path).expanduser())
    return cast(BinaryIO, _Seekable(lambda: Ranges(path, retry.timeout), path, retry, 0))


class _Seekable(Persistent):
    """A remote file of known length."""

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: lambda: 0, io.SEEK_CUR: self.tell, io.SEEK_END: self._length}[whence]()
        self.place = begin + offset
        return self.place

    def _length(self) -> int:
        return self.ask(lambda source: cast(Ranges, source).length())
