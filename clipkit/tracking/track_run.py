"""The callback that tells the tracker what a run is, where it came from, how it ended and which checkpoint is best."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

import lightning.pytorch as pl
import yaml  # type: ignore[import-untyped,unused-ignore]  # no stubs
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from clipkit.tracking.provenance import provenance
from clipkit.tracking.redact import (
    environment_secrets,
    install_redaction,
    known_secrets,
    redact,
    redact_checkpoint,
    secrets_in,
)
from clipkit.tracking.run_folder import store
from clipkit.tracking.runs import is_stop

__all__ = ["TrackRun"]

log = logging.getLogger(__name__)


class TrackRun(Callback):
    """Hands the logger the resolved configuration, the run's origin, its end and its best checkpoint.

    Any Lightning logger, or none, will do; what the logger cannot take is in the run's folder. Credentials are left
    out, of checkpoints too.

    Args:
        config: The resolved configuration, as plain data or as YAML; the hyperparameters of module and data module if
            none is given.
        upload_checkpoint: Whether the best checkpoint is stored with the run, and not only its path.
    """

    def __init__(self, config: Mapping[str, Any] | str | None = None, upload_checkpoint: bool = True) -> None:
        self.config, self.upload_checkpoint = config, upload_checkpoint

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Record configuration and origin; from here on, checkpoints are written without credentials."""
        own = _hyperparameters(trainer, pl_module)
        config = yaml.safe_load(self.config) if isinstance(self.config, str) else _plain(self.config or own)
        install_redaction(secrets_in(config) | secrets_in(own) | environment_secrets())
        if not isinstance(pl_module.on_save_checkpoint, _RedactedHook):
            # A callback's own hook comes before the module's, and not at all where only weights are saved.
            hook = _RedactedHook(pl_module.on_save_checkpoint)
            pl_module.on_save_checkpoint = hook  # type: ignore[method-assign]  # for this run alone
        for owner in (pl_module, trainer.datamodule):  # type: ignore[attr-defined]  # Lightning sets it
            # Lightning's copy of the hyperparameters, which it makes for loggers and uses for nothing else
            copy: dict[str, Any] = getattr(owner, "_hparams_initial", None) or {}
            copy.update({key: redact({key: value}, known_secrets())[key] for key, value in copy.items()})
        if stage != "fit" or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it
            return
        clean = redact(config, known_secrets())
        for logger in trainer.loggers:
            logger.log_hyperparams(clean)
        text = yaml.safe_dump(clean, sort_keys=False, allow_unicode=True, width=120)
        store(trainer, "config.yaml", redact(self.config, known_secrets()) if isinstance(self.config, str) else text)
        data = getattr(trainer.datamodule, "fingerprint", None)  # type: ignore[attr-defined]  # Lightning sets it
        self._tag(trainer, provenance(None if data is None else str(data), str(trainer.strategy.root_device)))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the best checkpoint: its path, the metric that decided, and the file."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it
            self._record_best(trainer, self.upload_checkpoint)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Tell stopped from failed, which Lightning does not, and keep the error."""
        stopped = is_stop(exception)
        for logger in trainer.loggers:
            if stopped and hasattr(logger, "mark_killed"):
                logger.mark_killed()
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it
            return
        self._record_best(trainer, upload=False)
        if not stopped:
            text = redact("".join(traceback.format_exception(exception)), known_secrets())
            self._tag(trainer, {"error": redact(f"{type(exception).__name__}: {exception}", known_secrets())[:500]})
            store(trainer, "error.txt", text)

    def _record_best(self, trainer: pl.Trainer, upload: bool) -> None:
        callback = _deciding_checkpoint(trainer)
        if callback is None:
            return
        path = callback.best_model_path or callback.last_model_path
        tags = {"checkpoint.best": path, "checkpoint.metric": f"{callback.monitor or 'the last one'}"}
        if callback.best_model_score is not None:
            tags["checkpoint.score"] = f"{callback.best_model_score.item():.6g}"
        self._tag(trainer, tags)
        for logger in trainer.loggers:
            if upload and hasattr(logger, "log_artifact") and Path(path).exists():
                logger.log_artifact(path, "checkpoints")

    @staticmethod
    def _tag(trainer: pl.Trainer, tags: Mapping[str, str]) -> None:
        for logger in trainer.loggers:
            if hasattr(logger, "log_tags"):
                logger.log_tags(tags)


class _RedactedHook:
    """A module's ``on_save_checkpoint``, and then the redaction of what was collected."""

    def __init__(self, hook: Callable[[dict[str, Any]], None]) -> None:
        self.hook = hook

    def __call__(self, checkpoint: dict[str, Any]) -> None:
        self.hook(checkpoint)
        redact_checkpoint(checkpoint, known_secrets())


def _deciding_checkpoint(trainer: pl.Trainer) -> ModelCheckpoint | None:
    """The first that saved something by a metric, or else the first that saved something."""
    written = [
        callback
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and (callback.best_model_path or callback.last_model_path)
    ]
    return next((callback for callback in written if callback.monitor), written[0] if written else None)


def _hyperparameters(trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
    data = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
    return {"model": dict(pl_module.hparams)} | ({"data": dict(data.hparams)} if data is not None else {})


def _plain(value: Any) -> Any:
    """Data that YAML can hold: paths and everything unknown as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int | float) or value is None:
        return value
    return str(value) if isinstance(value, str | PurePath) else f"{type(value).__name__}: {value}"[:200]
