"""Webdataset's tar archives as rows: members that share a name are one, and what is in their JSON belongs to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from clipkit.data.remote import open_forwards, public_name
from clipkit.data.sharded import KEY, MOST_TEXT, SOURCE, TOP, Begin, Row
from clipkit.data.shards import ShardSample, read_shard
from clipkit.data.skips import Skipped, Unusable, reason_of, skipped

__all__ = ["IMAGE_MEMBERS", "TarShards"]

IMAGE_MEMBERS = ("jpg", "png", "jpeg", "webp", "gif", "bmp", "tif", "tiff")


class TarShards(NamedTuple):
    """Webdataset's tar archives: members that share a name are a row, what follows the first dot is the column.

    Fields of a ``json`` member are columns too.

    Attributes:
        names: Paths or addresses.
        members: The image is the first of these that is there.
        image: What its column is called.
    """

    names: Sequence[str]
    members: Sequence[str] = IMAGE_MEMBERS
    image: str | None = "image"

    def parts(
        self, shard: int, begin: Begin = TOP, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[Begin, list[Row | Skipped]]]:
        """See :class:`Shards`."""
        name = public_name(self.names[shard])
        try:
            with open_forwards(self.names[shard], begin=begin.byte) as file:
                for part in read_shard(file, name, begin.byte):
                    begin = Begin(part.begin)
                    yield begin, [self._row(item, columns) for item in part.items]
        except (OSError, Unusable) as error:
            failed = reason_of(error) == "undecodable"  # an OSError with no number
            yield begin, [skipped(name, "", Unusable("unreadable_file", str(error)) if failed else error, None)]

    def _row(self, item: ShardSample | Skipped, columns: Sequence[str] | None) -> Row | Skipped:
        if isinstance(item, Skipped):
            return item
        found = next((member for member in self.members if member in item.members), None)
        if found is None:
            message = f"it has none of {', '.join(self.members)} (it has {', '.join(item.members)})"
            return Skipped(item.shard, item.key, "missing_member", message, None)
        data = item.members[found]
        try:
            fields = _fields(item, [name for name in columns if name != self.image] if columns is not None else None)
        except ValueError as error:
            return skipped(item.shard, item.key, error, data)
        image = {self.image or "image": {"bytes": data, "path": f"{item.key}.{found}"}}
        return {**fields, KEY: item.key, SOURCE: item.shard, **image}  # a json may have fields of those names, too


def _fields(sample: ShardSample, columns: Sequence[str] | None) -> Row:
    """The columns beside the image: texts, and what the sample's JSON says.

    Raises:
        UnicodeDecodeError: Where a text is not UTF-8.
        Unusable: Where the JSON is none.
    """
    if columns is None:
        others = {name: _text(data) for name, data in sample.members.items() if name not in (*IMAGE_MEMBERS, "json")}
        return {**_json(sample), **{name: text for name, text in others.items() if text is not None}}
    texts = {name: data for name, data in sample.members.items() if name in columns}
    told = _json(sample) if any(name not in texts for name in columns) else {}
    return {name: _small(texts[name]).decode("utf-8-sig") if name in texts else told.get(name) for name in columns}


def _json(sample: ShardSample) -> Row:
    if "json" not in sample.members:
        return {}
    try:
        told = json.loads(_small(sample.members["json"]))
    except Unusable:
        raise
    except (ValueError, RecursionError) as error:  # the latter where brackets are nested by the thousand
        raise Unusable("bad_text", f"its json cannot be read: {error}") from error
    return told if isinstance(told, dict) else {}


def _small(text: bytes) -> bytes:
    if len(text) > MOST_TEXT:
        raise Unusable("too_large", f"a text of {len(text)} bytes; {MOST_TEXT} are the most")
    return text


def _text(data: bytes) -> str | None:
    try:
        return None if len(data) > MOST_TEXT or b"\0" in data else data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
