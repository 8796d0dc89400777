"""The floors and rules of the house, read from the source with ``ast``, and a proof that each rule can fail."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "clipkit"
HOUSE = (
    "types distributed steps",
    "functional layers tokens",
    "towers heads objectives data optim",
    "models",
    "evaluation interop",
    "tasks checkpoints",
    "callbacks tracking benchmarking strategies",
    "cli",
    "__init__ __main__",
)
FLOORS = {name: floor for floor, names in enumerate(HOUSE) for name in names.split()}
MOST_LINES = 300
DRAWERS = {"util", "utils", "helper", "helpers", "misc", "common"}
LIGHT = ("clipkit", "clipkit.__main__", "clipkit.cli", "clipkit.cli.main")


class Import(NamedTuple):
    module: str
    line: int
    at_import: bool  # runs when the file is imported: neither in a function nor under TYPE_CHECKING


class Source(NamedTuple):
    module: str
    top: str
    tree: ast.Module
    imports: list[Import]
    lines: int


def read(package: Path) -> dict[str, Source]:
    """Every file of a source tree by its module name."""
    paths = {_module(package, path): path for path in sorted(package.rglob("*.py"))}
    sources = {}
    for module, path in paths.items():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        parent = module if path.name == "__init__.py" else module.rpartition(".")[0]
        imports = list(_imports(tree, parent, set(paths)))
        sources[module] = Source(module, _top(module), tree, imports, len(text.splitlines()))
    return sources


def _module(package: Path, path: Path) -> str:
    parts = [package.name, *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _top(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def _imports(tree: ast.Module, package: str, modules: set[str]) -> Iterator[Import]:
    for node, at_import in _walk(tree, at_import=True):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(inner if inner in modules else base, node.lineno, at_import)
        elif isinstance(node, ast.Call) and _identifier(node.func) in ("import_module", "__import__"):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            yield from (Import(name, node.lineno, at_import) for name in names[:1])


def _walk(node: ast.AST, at_import: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        deferred |= isinstance(child, ast.If) and _identifier(child.test) == "TYPE_CHECKING"
        yield child, at_import
        yield from _walk(child, at_import and not deferred)


def _identifier(node: ast.AST) -> str:
    return getattr(node, "id", getattr(node, "attr", ""))


def _inside(sources: dict[str, Source]) -> Iterator[tuple[Source, Import, str]]:
    for source in sources.values():
        for found in source.imports:
            if found.module.split(".")[0] == "clipkit":
                yield source, found, _top(found.module)


def _nodes(sources: dict[str, Source]) -> Iterator[tuple[Source, ast.AST]]:
    return ((source, node) for source in sources.values() for node in ast.walk(source.tree))


def unknown_names(sources: dict[str, Source]) -> list[str]:
    unknown = sorted({source.top for source in sources.values()} - set(FLOORS))
    return [f"clipkit/{name} stands on no floor: give it one in FLOORS and in the tour" for name in unknown]


def climbs(sources: dict[str, Source]) -> list[str]:
    """Imports from a higher floor, or from a neighbour on the same one; in a function too."""
    return [
        f"{source.module}:{found.line} (floor {FLOORS[source.top]}) imports {found.module} (floor {FLOORS[top]})"
        for source, found, top in _inside(sources)
        if top != source.top and top in FLOORS and source.top in FLOORS and FLOORS[top] >= FLOORS[source.top]
    ]


def circles(sources: dict[str, Source]) -> list[str]:
    edges = {name: {found.module for found in source.imports} & set(sources) for name, source in sources.items()}
    found, done = [], set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            found.append("circle: " + " -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for other in sorted(edges[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in edges:
        visit(name, ())
    return found


def long_files(sources: dict[str, Source]) -> list[str]:
    return [f"{s.module} has {s.lines} lines of at most {MOST_LINES}" for s in sources.values() if s.lines > MOST_LINES]


def drawers(sources: dict[str, Source]) -> list[str]:
    """Modules named for being a drawer of anything, alone or as a part of the name (``io_utils``)."""
    return [
        f"{module}: name it for what it does" for module in sources if DRAWERS & set(re.split(r"[._]", module.lower()))
    ]


def registries(sources: dict[str, Source]) -> list[str]:
    found = []
    for source, node in _nodes(sources):
        names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        names += [_identifier(getattr(d, "func", d)) for d in getattr(node, "decorator_list", [])]
        if any(re.search(r"^_*register|registry$", name.lower()) for name in names):
            found.append(f"{source.module}:{node.lineno} {names[0]}: class_path is the registry")
    return found


def name_sniffing(sources: dict[str, Source]) -> list[str]:
    found = []
    for source, node in _nodes(sources):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            left, right = node.left, node.comparators[0]
            while isinstance(right, ast.Call) and isinstance(right.func, ast.Attribute):  # name.lower()
                right = right.func.value
            word = isinstance(left, ast.Constant) and re.search(r"\w", str(left.value))
            if word and re.search(r"(^|_)name$", _identifier(right)):
                found.append(f"{source.module}:{node.lineno} {ast.unparse(node)}: ask what it does, not its name")
    return found


def heavy_face(sources: dict[str, Source]) -> list[str]:
    """What ``import clipkit`` and the dispatcher import before they are asked anything: the standard library alone."""
    found, waiting, seen = [], [module for module in LIGHT if module in sources], set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        for imported in sources[module].imports:
            root = imported.module.split(".")[0]
            if not imported.at_import:
                continue
            if root == "clipkit":
                parts = imported.module.split(".")
                waiting += [name for i in range(len(parts)) if (name := ".".join(parts[: i + 1])) in sources]
            elif root not in sys.stdlib_module_names:
                found.append(f"{module}:{imported.line} imports {imported.module} before anything asked for it")
    return found


# fmt: off
RULES: list[Callable[[dict[str, Source]], list[str]]] = [
    unknown_names, climbs, circles, long_files, drawers, registries, name_sniffing, heavy_face,
]
# fmt: on


@pytest.fixture(scope="module")
def clipkit():
    return read(PACKAGE)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps(rule, clipkit):
    assert rule(clipkit) == []


def test_the_root_package_imports_nothing_heavy():
    code = "import clipkit, clipkit.cli.main, sys; print({'torch', 'numpy', 'omegaconf', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == "set()", done.stderr


BREAKS = [
    (unknown_names, "engine.py", ""),
    (unknown_names, "zoo/model.py", ""),
    (climbs, "types.py", "from clipkit.functional import contrastive"),
    (climbs, "types.py", "import clipkit.tasks.contrastive"),
    (climbs, "types.py", "def late():\n    from clipkit import tasks"),
    (climbs, "types.py", "if TYPE_CHECKING:\n    from clipkit.models import dual_encoder"),
    (climbs, "types.py", "def late():\n    import_module('clipkit.tasks')"),
    (climbs, "heads/contrastive.py", "from clipkit.towers.base import Tower"),
    (climbs, "heads/contrastive.py", "from ..towers import base"),
    (climbs, "data/module.py", "from clipkit.objectives import base"),
    (climbs, "callbacks/health.py", "from clipkit import __version__"),
    (circles, "towers/base.py", "from clipkit.towers.timm import TimmTower"),
    (circles, "towers/base.py", "from . import timm"),
    (circles, "towers/timm.py", "from clipkit.towers import base, timm"),
    (circles, "towers/timm.py", "def late():\n    from clipkit.towers import TimmTower"),
    (long_files, "models/saving.py", "x = 1\n" * (MOST_LINES + 1)),
    (drawers, "data/utils.py", ""),
    (drawers, "data/io_utils.py", ""),
    (drawers, "models/common/saving.py", ""),
    (drawers, "towers/misc.py", ""),
    (drawers, "cli/helpers.py", ""),
    (registries, "towers/extra.py", "TOWER_REGISTRY = {}"),
    (registries, "towers/extra.py", "def register_tower(cls): ..."),
    (registries, "towers/extra.py", "@register('vit')\nclass Vit: ..."),
    (name_sniffing, "models/extra.py", "'coca' in name"),
    (name_sniffing, "models/extra.py", "'coca' not in model_name.lower()"),
    (name_sniffing, "models/extra.py", "'siglip' in config.name"),
    (heavy_face, "__init__.py", "import torch"),
    (heavy_face, "__init__.py", "from clipkit.types import Features"),
    (heavy_face, "cli/main.py", "try:\n    import rich\nexcept ImportError:\n    rich = None"),
]
SOUND = {
    "__init__.py": "def __getattr__(name):\n    import torch\n",
    "__main__.py": "from clipkit.cli.main import main",
    "types.py": "import torch",
    "functional/contrastive.py": "from clipkit.types import Features",
    "towers/__init__.py": "from clipkit.towers.timm import TimmTower",
    "towers/base.py": "from clipkit.types import Features",
    "towers/timm.py": "from clipkit.towers.base import Tower\nself.register_buffer('mean', mean)\n'a' in names",
    "heads/contrastive.py": "from clipkit.functional import contrastive",
    "objectives/base.py": "",
    "data/module.py": "def late():\n    import datasets",
    "models/dual_encoder.py": "from clipkit.towers import TimmTower\nfrom clipkit.heads import contrastive",
    "tasks/contrastive.py": "from ..models.dual_encoder import DualEncoder",
    "callbacks/health.py": "from clipkit.tasks import contrastive",
    "cli/__init__.py": "",
    "cli/main.py": "import argparse\ndef main():\n    from clipkit.tasks import contrastive",
}


@pytest.fixture
def house(tmp_path):
    """A small tree in which every rule holds."""
    for name, text in SOUND.items():
        path = tmp_path / "clipkit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "clipkit"


def test_a_sound_house_breaks_no_rule(house):
    assert [line for rule in RULES for line in rule(read(house))] == []


@pytest.mark.parametrize(("rule", "path", "text"), BREAKS)
def test_a_broken_rule_is_told(house, rule, path, text):
    (house / path).parent.mkdir(parents=True, exist_ok=True)
    before = SOUND.get(path, "")
    (house / path).write_text(f"{text}\n{before}")
    assert len(rule(read(house))) >= 1


def test_every_rule_is_broken_on_purpose_somewhere():
    assert {rule for rule, _, _ in BREAKS} == set(RULES)


def test_a_break_in_the_real_tree_is_told(tmp_path, clipkit):
    copy = shutil.copytree(PACKAGE, tmp_path / "clipkit", ignore=shutil.ignore_patterns("assets", "__pycache__"))
    with (copy / "types.py").open("a") as file:
        file.write("\n\ndef late() -> None:\n    from clipkit.tasks import ContrastiveTask\n")
    (told,) = set(climbs(read(copy))) - set(climbs(clipkit))
    assert told.endswith("(floor 0) imports clipkit.tasks (floor 5)")
