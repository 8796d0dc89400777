"""What the distribution holds, and that its bounds are what was tested."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest

import clipkit


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_code_data_and_experiments(wheel, root):
    names = set(wheel.namelist())
    folder = root / "clipkit"
    files = {
        f"clipkit/{path.relative_to(folder).as_posix()}"
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    experiments = {
        f"clipkit/experiments/{path.relative_to(root / 'experiments').as_posix()}"
        for path in (root / "experiments").glob("**/*.yaml")
    }
    assert "clipkit/experiments/sweeps/objectives.yaml" in experiments
    assert "clipkit/py.typed" in files
    assert "clipkit/data/assets/emoji/emoji.parquet" in files
    assert experiments
    assert files | experiments == {name for name in names if not name.split("/")[0].endswith(".dist-info")}


def test_the_wheel_carries_the_licences_of_the_drawings(wheel):
    assert any(name.endswith("licenses/clipkit/data/assets/emoji/LICENSES.md") for name in wheel.namelist())


def test_the_version_is_said_once(root, wheel):
    places = [
        path.relative_to(root).as_posix()
        for path in [*root.glob("*.*"), *(root / "clipkit").rglob("*.py")]
        if path.is_file() and clipkit.__version__ in path.read_text(encoding="utf-8", errors="ignore")
    ]
    assert places == ["clipkit/__init__.py"]
    assert f"-{clipkit.__version__}-" in str(wheel.filename)


def test_no_file_names_a_package_registry(root):
    hosts = re.compile(r"p[y]pi\.org|python[h]osted|npm[j]s\.(org|com)|deb\.d[e]bian")
    texts = [
        path for pattern in ("*", "docs/**/*", "clipkit/**/*.py", "experiments/**/*") for path in root.glob(pattern)
    ]
    assert [path for path in texts if path.is_file() and hosts.search(path.read_text(errors="ignore"))] == []


@pytest.mark.skipif(os.environ.get("TOX_ENV_NAME") != "lowest", reason="needs the environment of `tox -e lowest`")
def test_every_lower_bound_is_what_is_installed(project):
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    bounds = dict(re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)(?:,<[\d.]+)?", line).groups() for line in wanted)
    installed = {name: importlib.metadata.version(name).split("+")[0] for name in bounds}
    assert {n for n in bounds if not re.fullmatch(re.escape(bounds[n]) + r"(\.0)*", installed[n])} == set(), installed
