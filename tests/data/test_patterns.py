"""Names that stand for several files."""

from __future__ import annotations

import subprocess

import pytest

from clipkit.data.patterns import expand_braces, is_pattern, matching_files


@pytest.mark.parametrize(
    "name",
    [
        "a{1..3}b",
        "a{08..11}",
        "a{3..1}",
        "{x,y}/{1..2}.csv",
        "a{b,c{1..2},d}e",
        "{a,}b",
        "plain",
        "a{b}c",
        "{000..002}",
    ],
)
def test_as_bash_has_it(name):
    expected = subprocess.run(["bash", "-c", f"echo {name}"], capture_output=True, text=True, check=True).stdout.split()
    assert expand_braces(name) == expected


def test_files_in_order_and_what_is_missing(own_folder):
    for name in ("s-0.csv", "s-1.csv", "s-3.csv", "t.csv"):
        (own_folder / name).touch()
    files, missing = matching_files("s-{0..3}.csv")
    assert [file.name for file in files] == ["s-0.csv", "s-1.csv", "s-3.csv"]
    assert missing == ["s-2.csv"]
    assert [file.name for file in matching_files("{t,s-*}.csv")[0]] == ["t.csv", "s-0.csv", "s-1.csv", "s-3.csv"]
    assert is_pattern("a*") and is_pattern("{a,b}") and not is_pattern("a{b}") and not is_pattern("plain.csv")
