"""When a stream is taken to be out of reach: shards in a row of which nothing came."""

from __future__ import annotations

from collections.abc import Sequence

from clipkit.data.skips import Skipped, TooManyUnusable

__all__ = ["Lost"]

MOST = {"unreachable_shard": 3, "refused_shard": 100}
"""How many in a row are borne, by reason: one that was given up took minutes, one that is refused an answer."""
NAMED = 3


class Lost:
    """The shards since the last row of any, that another machine did not give.

    Attributes:
        shards: What was told of each.
    """

    def __init__(self) -> None:
        self.shards: list[Skipped] = []

    def count(self, items: Sequence[object]) -> None:
        """Take notice of what came: of a row, or of what stands for a shard that did not."""
        for item in items:
            if not isinstance(item, Skipped):
                self.shards.clear()
            elif item.reason in MOST:
                self.shards.append(item)

    @property
    def too_many(self) -> bool:
        """Whether the next one is not to be waited for."""
        given_up = sum(one.reason == "unreachable_shard" for one in self.shards)
        return given_up >= MOST["unreachable_shard"] or len(self.shards) >= MOST["refused_shard"]

    def refuse_more(self) -> None:
        """End the run where there are too many.

        Raises:
            TooManyUnusable: Naming the last of them, and why.
        """
        if self.too_many:
            told = "; ".join(
                f"{one.source}: {one.message.removeprefix(f'{one.source}: ')}" for one in self.shards[-NAMED:]
            )
            raise TooManyUnusable(f"nothing came of {len(self.shards)} shards in a row; the last: {told}")
