"""LightningCLI as the assembler: it takes one checked dict, and makes data module, trainer and task when told to."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from jsonargparse import ArgumentError as ParserError
from jsonargparse import Namespace
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from clipkit.cli.classes import said_by
from clipkit.cli.explain import ConfigError, Keys
from clipkit.cli.normalise import Named, Walk
from clipkit.types import ArgumentError

# Lightning still calls what jsonargparse 4.49 renamed; that is nothing to tell a user.
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Assembled", "Assembly", "DefaultLogger"]


DefaultLogger = Callable[[], Logger | None]
"""Makes the logger of an experiment that names none; None for no logger."""


TRAINER_DEFAULTS = {
    # the data module's own sampler shares rows out, and keeps their order at any world size
    "use_distributed_sampler": False,
    # everything was checked before, and validating an untrained model takes as long as any other
    "num_sanity_val_steps": 0,
    # `--dry-run` says it better
    "enable_model_summary": False,
}
"""Where the Trainer's own defaults do not fit."""


class Assembled(NamedTuple):
    """What an experiment is made of.

    Attributes:
        task: The LightningModule.
        data: The LightningDataModule.
        trainer: The Trainer.
    """

    task: LightningModule
    data: LightningDataModule
    trainer: Trainer


class Assembly(LightningCLI):
    """Parses a checked configuration at once, and makes nothing before ``assemble``.

    Args:
        given: The configuration, classes as ``class_path`` and ``init_args``.
        walk: What checked it; knows the places of its keys.

    Raises:
        ConfigError: For what only the whole parser sees.
    """

    def __init__(self, given: dict[str, Any], walk: Walk) -> None:
        self.walk = walk
        self.failure: ConfigError | None = None
        super().__init__(
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            trainer_defaults=TRAINER_DEFAULTS,
            save_config_callback=None,
            seed_everything_default=0,
            parser_kwargs={"allow_abbrev": False, "exit_on_error": False},
            args=given,
            run=False,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the dict alone; sys.argv is none of its business."""
        try:
            self.config = parser.parse_object(args)
        except ParserError as error:
            raise self._misfit(str(error)) from error

    def _misfit(self, text: str) -> ConfigError:
        """Say in one sentence what jsonargparse says in a page: the key, and the innermost reason."""
        keys = tuple(key for keys in re.findall(r'Parser key "([^"]+)"', text) for key in keys.split("."))
        reasons = [line.strip(" -") for line in text.splitlines() if not re.match(r"\s*Given value", line)]
        return self.walk.error(keys, reasons[-1][:300])

    def _set_seed(self) -> None:
        """Seed when assembling, not when parsing."""

    def instantiate_classes(self) -> None:
        """Make nothing yet."""

    def dumped(self) -> dict[str, Any]:
        """Return the parsed configuration with every default, as plain data."""
        # It is valid, as it has just been parsed, and checking it again takes as long as parsing.
        parts = {"skip_unset": False, "skip_link_targets": False, "skip_validation": True}
        dumped: dict[str, Any] = yaml.safe_load(self.parser.dump(self.config, format="yaml", **parts))
        self.config_dump = dumped  # where Lightning looks for the hyperparameters, or else makes the same once more
        return dumped

    def assemble(
        self,
        extra_callbacks: Sequence[Callback],
        default_logger: DefaultLogger | None,
        checkpoint_io: CheckpointIO | None = None,
    ) -> Assembled:
        """Make the data module, which checks paths and columns, then the trainer, then the task: it takes longest."""
        seed = self.config["seed_everything"]
        if seed is not False:
            seed_everything(seed, workers=True, verbose=False)
        self.parser.add_instantiator(self._make, object)
        self.config_init = Namespace()  # type: ignore[no-untyped-call]  # it has no types
        self.datamodule = self._section("data")
        given = self._section("trainer")
        with self._explained(("trainer",)):
            self.trainer = self._trainer(given, extra_callbacks, default_logger, checkpoint_io)
        self.model = self._section("model")
        return Assembled(self.model, self.datamodule, self.trainer)

    def _section(self, name: str) -> Any:
        with self._explained((name,)):
            part = Namespace({name: self.config[name]})  # type: ignore[no-untyped-call]  # it has no types
            part = self.parser.instantiate(part)
        if self.failure is not None:  # a union swallowed it
            raise self.failure
        self.config_init[name] = part[name]
        return part[name]

    def _trainer(
        self,
        given: Namespace,
        extra: Sequence[Callback],
        default_logger: DefaultLogger | None,
        checkpoint_io: CheckpointIO | None,
    ) -> Trainer:
        callbacks = given.get("callbacks") or []
        callbacks = [*callbacks] if isinstance(callbacks, list) else [callbacks]
        kinds = {type(callback) for callback in callbacks}
        callbacks += [callback for callback in extra if type(callback) not in kinds]
        logger = given.get("logger")
        if logger in (None, True) and default_logger is not None:
            logger = default_logger() or False
        plugins = given.get("plugins") or []
        plugins = [*plugins] if isinstance(plugins, list) else [plugins]
        if checkpoint_io is not None and not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(checkpoint_io)
        if given.get("sync_batchnorm"):
            from clipkit.strategies import SyncBatchNorm  # slow to import, and seldom needed

            plugins.append(SyncBatchNorm())
        return self.instantiate_trainer(callbacks=callbacks, logger=logger, plugins=plugins)

    def _make(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._explained(self._keys_of(target, kwargs)):
            return target(*args, **kwargs)

    def _keys_of(self, target: Callable[..., Any], kwargs: dict[str, Any]) -> Keys:
        """Return where a class that is being made was named; among several, where its arguments agree."""
        same = [named for named in self.walk.named if named.target is target]
        return max(same, key=lambda named: _agreement(named, kwargs)).keys if same else ()

    @contextmanager
    def _explained(self, keys: Keys) -> Iterator[None]:
        """Say a constructor's refusal by key and place: the innermost one, which jsonargparse may have wrapped."""
        try:
            yield
        except Exception as error:
            if self.failure is None:
                origin = _origin(error)
                self.failure = origin if isinstance(origin, ConfigError) else self._in_words(origin, keys)
            raise self.failure from error

    def _in_words(self, error: BaseException, keys: Keys) -> ConfigError:
        if isinstance(error, ArgumentError):
            return self.walk.error((*keys, *error.argument.split(".")), error.message)
        text = said_by(error)
        about = [name for name in self._given_at(keys) if re.search(rf"\b{re.escape(name)}\b", text)]
        return self.walk.error((*keys, max(about, key=len)) if about else keys, text)

    def _given_at(self, keys: Keys) -> list[str]:
        return [known[-1] for known in self.walk.merged.places if known[:-1] == keys and known != ()]


def _agreement(named: Named, kwargs: dict[str, Any]) -> int:
    return sum(name in kwargs and kwargs[name] == value for name, value in named.given.items())


def _origin(error: BaseException) -> BaseException:
    """Return the exception that jsonargparse put in the words of its types."""
    while error.__cause__ is not None and "jsonargparse" in traceback.extract_tb(error.__traceback__)[-1].filename:
        error = error.__cause__
    return error
