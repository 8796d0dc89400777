"""From files and the command line to a checked experiment, and from there to task, data module and trainer."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from clipkit.cli.document import read_document
from clipkit.cli.explain import ConfigError, Keys, Place, nearest
from clipkit.cli.merge import Merged, merge, place_of
from clipkit.cli.overrides import COMMAND_LINE, SECTIONS, Override, parse_overrides
from clipkit.cli.trust import Trust

if TYPE_CHECKING:
    from lightning.fabric.plugins import CheckpointIO
    from lightning.pytorch import Callback

    from clipkit.cli.assembly import Assembled, Assembly, DefaultLogger

__all__ = [
    "Experiment",
    "find_experiment",
    "find_file",
    "load_experiment",
    "shipped_experiments",
    "shipped_sweeps",
]

DEFAULT_CLASSES = {"model": "clipkit.tasks.ContrastiveTask", "data": "clipkit.data.CaptionDataModule"}
"""The class of a section that names none."""


@dataclass(frozen=True)
class Experiment:
    """A configuration in which everything was checked that can be without building anything.

    Attributes:
        config: The whole configuration with every default, as plain data: classes as ``class_path`` with their
            arguments beside it. Given back as a file it makes the same experiment.
        given: The part that files and command line gave, in the same shape.
        files: The files, in the order they were merged.
        places: Every key given, to where it was given last.
        notes: What the user should be told: arguments left out because their class was replaced.
    """

    config: dict[str, Any]
    given: dict[str, Any]
    files: tuple[Path, ...]
    places: dict[Keys, Place]
    notes: tuple[str, ...]
    assembly: Assembly
    trust: Trust

    @property
    def name(self) -> str:
        """What to call it: the names of its files."""
        return "+".join(path.stem for path in self.files)

    def build(
        self,
        extra_callbacks: Sequence[Callback] = (),
        default_logger: DefaultLogger | None = None,
        checkpoint_io: CheckpointIO | None = None,
    ) -> Assembled:
        """Seed, then make the data module, the trainer and the task, in that order.

        Args:
            extra_callbacks: Callbacks to add; one is left out where the configuration names another of its class.
            default_logger: Makes the logger where the configuration names none and does not say ``logger: false``;
                where it returns None there is none.
            checkpoint_io: Writes checkpoints where the configuration has no plugin of its own that does.

        Returns:
            ``(task, data, trainer)``.

        Raises:
            ConfigError: For a constructor's refusal, with the key, file and line of the argument where it is known.
        """
        with self.trust.enforced():
            return self.assembly.assemble(extra_callbacks, default_logger, checkpoint_io)

    def to_yaml(self) -> str:
        """Return the whole configuration as YAML that ``-c`` takes; credentials are replaced by ``[redacted]``."""
        from clipkit.tracking.redact import redact

        plain = redact(_escaped(self.config))
        return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120))


def load_experiment(
    files: Sequence[str],
    overrides: Sequence[str] = (),
    trust: Sequence[str] = (),
    changes: Sequence[Override] = (),
) -> Experiment:
    """Read, merge and check an experiment; nothing is built.

    Args:
        files: Paths or names of shipped experiments, merged in order.
        overrides: What is left of the command line: ``--data.batch_size=64``, ``--data.batch_size 64`` or no dashes.
        trust: Modules whose classes may be named besides clipkit's, torch's and Lightning's.
        changes: Overrides that were read elsewhere; those of the command line come after them.

    Raises:
        ConfigError: For the first mistake, with key, file and line.
    """
    changes = [*changes, *parse_overrides(overrides)]
    if not files:
        shipped = ", ".join(shipped_experiments())
        raise ConfigError(f"-c FILE is missing: a path, or a shipped experiment: {shipped or 'there is none'}.")
    paths = [find_experiment(name) for name in files]
    merged = merge([read_document(path) for path in paths], changes)
    return _check(_with_default_classes(merged), paths, Trust(trust, [path.parent for path in paths]))


def find_experiment(name: str) -> Path:
    """Return the file of an experiment.

    Args:
        name: A path, or the name of a shipped experiment (``emoji``).

    Raises:
        ConfigError: Naming the nearest there is.
    """
    return find_file(name, "experiment", shipped_experiments(), "-c ", COMMAND_LINE)


def find_file(
    name: str, kind: str, shipped: dict[str, Path], said: str, place: Place | None, folder: Path | None = None
) -> Path:
    """Return a file that is given by its path or by the name of a shipped one.

    Args:
        name: As it was given.
        kind: What it is of, for the error.
        shipped: Name to file.
        said: What stands before the name where it was given.
        place: Where that is.
        folder: What a path starts from; the working folder by default.

    Raises:
        ConfigError: Naming the nearest there is.
    """
    given = Path(name).expanduser()
    path = (folder or Path()) / given
    if path.is_file():
        return path
    if name in shipped:
        return shipped[name]
    beside = {file.stem: str(given.with_name(file.name)) for file in path.parent.glob("*.y*ml")} if given.name else {}
    near = beside.get(nearest(path.stem, beside) or "") or nearest(path.stem, shipped)
    hint = f"Did you mean {said}{near}?" if near else f"The shipped ones are {', '.join(shipped)}."
    message = f"{said}{name}: there is no such file and no shipped {kind} of that name. {hint}"
    raise ConfigError(message, place)


def shipped_experiments() -> dict[str, Path]:
    """Return name to file: of the checkout this package lies in, else of the installed package."""
    return {path.stem: path for path in sorted(_experiments().glob("*.yaml"))}


def shipped_sweeps() -> dict[str, Path]:
    """Return name to file, as of experiments."""
    return {path.stem: path for path in sorted((_experiments() / "sweeps").glob("*.yaml"))}


def _experiments() -> Path:
    package = Path(__file__).resolve().parents[1]
    folders = (package.parent / "experiments", package / "experiments")
    # A checkout is known by its project file, for an installed package lies beside others' folders.
    return folders[0] if (package.parent / "pyproject.toml").is_file() else folders[1]


def _check(merged: Merged, files: Sequence[Path], trust: Trust) -> Experiment:
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer

    from clipkit.cli.assembly import Assembly
    from clipkit.cli.classes import Argument
    from clipkit.cli.normalise import Walk

    sections = {
        "seed_everything": Argument(bool | int, False, 0),
        "model": Argument(LightningModule, True, None),
        "data": Argument(LightningDataModule, True, None),
        "trainer": Argument(Trainer, False, {}),
    }
    if isinstance(trainer := merged.values.get("trainer"), dict) and "class_path" in trainer:
        place = place_of(("trainer", "class_path"), merged.places)
        raise ConfigError("trainer.class_path: the trainer is always Lightning's own; leave this out.", place)
    if merged.values.get("seed_everything") is True:
        place = place_of(("seed_everything",), merged.places)
        raise ConfigError("seed_everything: a seed that is drawn is in no file; give a number, or false.", place)
    with trust.enforced():
        walk = Walk(merged, trust)
        given = walk.root(sections)
        given["trainer"] = given["trainer"].get("init_args", {})  # LightningCLI knows its class
        assembly = Assembly(deepcopy(given), walk)  # jsonargparse writes into what it is given
        dumped = assembly.dumped()
        config = _flat({section: dumped[section] for section in SECTIONS})
    return Experiment(config, _flat(given), tuple(files), merged.places, tuple(walk.notes), assembly, trust)


def _with_default_classes(merged: Merged) -> Merged:
    values = dict(merged.values)
    for section in ("data", "trainer"):
        if values.get(section) is None:  # left out, or nothing below it
            values[section] = {}
    for section, class_path in DEFAULT_CLASSES.items():
        if isinstance(values.get(section), dict):
            values[section] = {"class_path": class_path, **values[section]}
    return merged._replace(values=values)


def _flat(value: Any) -> Any:
    """Put the arguments of every class beside its ``class_path``."""
    if isinstance(value, list):
        return [_flat(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "class_path" in value and value.keys() <= {"class_path", "init_args"}:
        value = {"class_path": value["class_path"], **(value.get("init_args") or {})}
    return {key: _flat(item) for key, item in value.items()}


def _escaped(value: Any) -> Any:
    """Write a literal ``${`` so that it is not taken for a reference when the YAML is read again."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value
