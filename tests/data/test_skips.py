"""What was left out travels in a batch of tensors."""

from __future__ import annotations

import pytest

from clipkit.data.skips import Skipped, pack_skips, unpack_skips


def skips(count, begin=0):
    return tuple(Skipped("a.tar", f"{begin + i}é", "undecodable", "damaged \u2028", None) for i in range(count))


@pytest.mark.parametrize("counts", [(0, 0, 0), (1, 0, 2), (16, 0, 0), (0, 17, 1), (0, 5000, 0, 3)])
def test_they_come_out_in_order(counts):
    given = [skips(count, 10_000 * i) for i, count in enumerate(counts)]
    packed = pack_skips(given)
    assert len(packed) == len(counts)
    assert unpack_skips(packed) == [one for row in given for one in row]


def test_a_long_list_is_no_heavier_than_what_it_says():
    said = len(pack_skips([skips(5000)])[0])
    assert pack_skips([(), skips(5000), *[()] * 254]).numel() < 1.1 * said
