"""What is fetched to build a set, by an ``npm`` that only writes down what it is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipkit.cli.main import main
from clipkit.data.build_icons import PACKAGE

pytest.importorskip("resvg_py", reason="it draws the icons, and comes with an extra")

NPM = """#!/bin/sh
printf '%s\\n' "$@" > "{told}"
[ -n "{fails}" ] && echo 'npm error notarget No matching version' >&2 && exit 1
while [ "$1" != --prefix ]; do shift; done
mkdir -p "$2/node_modules/@iconify"
cp -r "{package}" "$2/node_modules/@iconify/json"
"""


@pytest.fixture
def npm(own_folder, monkeypatch):
    """``npm(fails)`` puts an executable of that name on the path; the file with its arguments, one a line."""
    folder = own_folder / "package"
    (folder / "json").mkdir(parents=True)
    licence = {"title": "MIT", "spdx": "MIT", "url": "https://example.org"}
    info = {"name": "Plain", "author": {"name": "Somebody", "url": "https://example.org"}, "license": licence}
    icons = {f"box-{i}": {"body": f'<path d="M{i} 4h16v16H4z"/>'} for i in range(5)}
    plain = {"prefix": "plain", "info": info, "icons": icons, "width": 24, "height": 24}
    (folder / "json/plain.json").write_text(json.dumps(plain))
    (folder / "collections.json").write_text(json.dumps({"plain": info}))
    (folder / "package.json").write_text('{"version": "9.9.9"}')

    def put(fails=False):
        (own_folder / "bin").mkdir()
        program, told = own_folder / "bin/npm", own_folder / "told"
        program.write_text(NPM.format(told=told, package=folder, fails="yes" if fails else ""))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")
        return told

    return put


def test_the_package_is_fetched_by_name_and_version(npm, capsys):
    told = npm()
    assert main(["data", "build-icons", "icons", "--workers", "0"]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.split()[:4] == ["read", "5", "written", "5"]
    command, *options = told.read_text().splitlines()
    assert command == "install" and options[-1] == PACKAGE == "@iconify/json@2.2.535"
    prefix = Path(options[options.index("--prefix") + 1])
    assert not prefix.exists()  # it was a folder for the time of the build
    assert "`@iconify/json@9.9.9`" in Path("icons/README.md").read_text(encoding="utf-8")


def test_npm_that_fails_is_told_with_its_message(npm, capsys):
    npm(fails=True)
    assert main(["data", "build-icons", "icons"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "npm install failed with code 1: npm error notarget No matching version." in err and err.count("\n") == 1


def test_without_npm_it_is_told_what_to_install(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert main(["data", "build-icons", "icons"]) == 2
    assert "npm was not found: install Node.js, or pass" in capsys.readouterr().err
    assert not Path("icons").exists()
