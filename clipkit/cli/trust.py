"""Which modules the classes of a configuration may come from, so that a YAML from elsewhere runs no code of its own."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clipkit.cli.explain import ConfigError, Place, dotted

__all__ = ["ALWAYS", "Trust"]

ALWAYS = ("clipkit", "torch", "lightning", "pytorch_lightning")
"""Packages that every configuration may name classes of."""


class Trust:
    """Decides whether a dotted name may be imported, before anything of it is.

    Args:
        modules: Further modules (``--trust MODULE``), with all that is below them.
        folders: Folders of the configuration's files; a module lying in one is trusted too.

    Raises:
        ConfigError: For a module that is not there.
    """

    def __init__(self, modules: Sequence[str] = (), folders: Sequence[Path] = ()) -> None:
        self.modules = list(modules)
        self.folders = [folder.resolve() for folder in folders]
        for module in self.modules:
            _make_importable(module)

    def check(self, class_path: str, keys: Sequence[str], place: Place | None) -> None:
        """Refuse a dotted name of a module that is not trusted.

        Raises:
            ConfigError: Saying how to trust it.
        """
        if self.allows(class_path):
            return
        module = class_path.split(".")[0]
        if (folder := self._beside(module)) is not None:
            self._adopt(module, folder, keys, place)
            return
        message = (
            f"{dotted(keys)}: {class_path} is not imported. An experiment names classes of clipkit, torch, lightning "
            f"and of .py files in its own folder; if you trust {module}, add --trust {module}."
        )
        raise ConfigError(message, place)

    def allows(self, class_path: str) -> bool:
        """Return whether a dotted name lies in a trusted module."""
        return any(class_path == module or class_path.startswith(f"{module}.") for module in (*ALWAYS, *self.modules))

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Make jsonargparse refuse other imports too, for strings that it takes for classes in its own ways."""
        from jsonargparse import set_parsing_settings

        # Read by us, with their lines; nothing is fetched because a value looks like a path or an address.
        set_parsing_settings(config_read_mode_fsspec_enabled=False)
        # Dicts with a class_path are made into objects also where an argument has no annotation: they were checked.
        set_parsing_settings(instantiate_subclass_spec_in_any=True)
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*ALWAYS, *self.modules])
        try:
            yield
        finally:
            set_parsing_settings(import_path_denylist=self.modules)

    def _beside(self, module: str) -> Path | None:
        found = (folder for folder in self.folders if _lies_in(module, folder))
        return next(found, None)

    def _adopt(self, module: str, folder: Path, keys: Sequence[str], place: Place | None) -> None:
        """Trust a module beside the configuration, if it is the one that Python finds by that name."""
        from jsonargparse import set_parsing_settings

        if str(folder) not in sys.path:
            sys.path.append(str(folder))
            importlib.invalidate_caches()
        spec = importlib.util.find_spec(module)
        origin = Path(spec.origin).resolve() if spec and spec.origin and os.path.exists(spec.origin) else None
        if origin is None or folder not in origin.parents:
            message = f"{module}.py beside this file is hidden by another module {module}, found first; rename it."
            raise ConfigError(f"{dotted(keys)}: {message}", place)
        self.modules.append(module)
        set_parsing_settings(import_path_allowlist=[module])


def _lies_in(module: str, folder: Path) -> bool:
    return (folder / f"{module}.py").is_file() or (folder / module / "__init__.py").is_file()


def _make_importable(module: str) -> None:
    """Find a module named by --trust, in the working folder too, as ``python -m`` would."""
    top, here = module.split(".")[0], str(Path.cwd())
    line = Place("command line")
    if not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(f"--trust {module}: name a module, such as mypackage or mypackage.towers.", line)
    if top == "jsonargparse":
        raise ConfigError(f"--trust {module}: it decides what is imported, so nothing in it can be named.", line)
    if importlib.util.find_spec(top) is None and _lies_in(top, Path.cwd()) and here not in sys.path:
        sys.path.append(here)
        importlib.invalidate_caches()
    if importlib.util.find_spec(top) is None:
        raise ConfigError(f"--trust {module}: there is no module {top} here or installed.", line)
