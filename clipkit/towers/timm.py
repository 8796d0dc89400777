"""Any timm model as a vision tower."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.models import _builder, _factory, group_parameters
from timm.models._hub import load_model_config_from_hf, load_model_config_from_path
from torch import Tensor, nn

from clipkit.layers import attention_kernel
from clipkit.towers.base import VisionTower
from clipkit.towers.patches import multiply_patches
from clipkit.types import ArgumentError, Features

__all__ = ["TimmTower"]

# Arguments of timm's that this tower has under a name of its own.
OURS = {"img_size": "image_size", "patch_drop_rate": "patch_drop", "global_pool": "pool"}
# Arguments of timm's that only say where weights come from.
SOURCES = ("cache_dir", "checkpoint_path", "pretrained_cfg", "pretrained_strict")


class TimmTower(VisionTower):
    """A timm backbone; width, mean, standard deviation and interpolation are read from timm.

    Args:
        name: Any name ``timm.create_model`` knows, ``hf-hub:...`` and ``local-dir:...`` included.
        pretrained: Whether to fetch timm's weights.
        image_size: Height and width in pixels, or one number for both; ``null`` for the model's own.
        patch_drop: Share of patches left out in training, for models with patches (FLIP, arXiv 2212.00794).
        pool: timm's ``global_pool``; ``null`` for the model's own.
        timm_kwargs: Further arguments of ``timm.create_model``.
        gradient_checkpointing: Whether blocks are computed again in the backward pass, to save memory.

    Raises:
        ArgumentError: For an unknown name, an argument this family does not take, weights that cannot be had, or a size
            it cannot work at.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        image_size: int | tuple[int, int] | None = None,
        patch_drop: float = 0.0,
        pool: str | None = None,
        timm_kwargs: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.check(name, pretrained, image_size, patch_drop, timm_kwargs)
        self.name, self.timm_kwargs = name, {**_saved_arguments(name), **(timm_kwargs or {})}
        options = dict(self.timm_kwargs, num_classes=0, patch_drop_rate=patch_drop or None, global_pool=pool)
        options = {key: value for key, value in options.items() if value is not None}
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size or (0, 0)
        self.backbone, refused = _create(name, pretrained, (height, width) if image_size else None, options)
        # Faster convolutions on a CPU, and on a GPU in half precision.
        self.layout = torch.channels_last if _bears_channels_last(self.backbone) else torch.contiguous_format
        self.backbone.to(memory_format=self.layout)
        multiply_patches(self.backbone)
        settings: dict[str, Any] = resolve_model_data_config(self.backbone)  # type: ignore[no-untyped-call]  # it has no types
        self.image_size = (height, width) if image_size else tuple(settings["input_size"][-2:])
        self.mean, self.std = tuple(settings["mean"]), tuple(settings["std"])
        self.interpolation = settings["interpolation"]
        self.register_buffer("pixel_mean", torch.tensor(self.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(self.std).view(1, 3, 1, 1), persistent=False)
        if patch_drop and not any(getattr(m, "patch_drop", None) for m in self.backbone.modules()):
            raise ArgumentError("patch_drop", f"{name} has no patches to leave out")
        # Of plain transformers. Blocks are computed again outside of forward, where nothing would choose a kernel.
        patches = getattr(getattr(self.backbone, "patch_embed", None), "num_patches", None)
        self.patches: int | None = None if gradient_checkpointing else patches
        self.width = self._measure(refused)
        if gradient_checkpointing:
            self._checkpoint_gradients()

    @classmethod
    def check(
        cls,
        name: str,
        pretrained: bool = False,
        image_size: int | tuple[int, int] | None = None,
        patch_drop: float = 0.0,
        timm_kwargs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Refuse what cannot be, before anything is built.

        Raises:
            ArgumentError: Naming the argument, for an unknown name the nearest ones.
        """
        _check_name(name)
        for theirs, ours in OURS.items():
            if theirs in (timm_kwargs or {}):
                raise ArgumentError("timm_kwargs", f"give `{ours}` of the tower itself, not `{theirs}`")
        _check_settings(name, timm_kwargs or {})
        if not 0 <= patch_drop < 1:
            raise ArgumentError("patch_drop", f"{patch_drop} is not in [0, 1)")
        sizes = (image_size,) if isinstance(image_size, int) else image_size or ()
        if any(size < 1 for size in sizes):
            raise ArgumentError("image_size", f"{image_size} is not a number of pixels")
        named = ":" in name or {"pretrained_cfg_overlay", *SOURCES} & set(timm_kwargs or {})
        if pretrained and not named and not timm.is_model_pretrained(name):
            raise ArgumentError("pretrained", f"timm has no weights for {name}")

    def forward(self, image: Tensor) -> Features:
        """Encode images.

        Args:
            image: (B, 3, H, W), uint8, or float already normalised.

        Returns:
            ``pooled`` (B, width); ``tokens`` (B, N, width) where the backbone's are as wide as that, class token
            included.
        """
        if image.dtype == torch.uint8:
            image = (image.to(self.pixel_mean.dtype) / 255 - self.pixel_mean) / self.pixel_std  # (B, 3, H, W)
        with attention_kernel(next(self.backbone.parameters()), self.patches):
            features = self.backbone.forward_features(image.contiguous(memory_format=self.layout))
        pooled = self.backbone.forward_head(features, pre_logits=True)  # (B, width)
        return Features(pooled, _tokens(features, pooled.shape[-1], getattr(self.backbone, "output_fmt", "NCHW")))

    def blocks(self) -> list[list[nn.Parameter]]:
        """Parameters in timm's own depth order; a family that gives none is split by its stages."""
        if not hasattr(self.backbone, "group_matcher"):
            return super().blocks()
        matcher = self.backbone.group_matcher()
        if not callable(matcher):  # patterns: what none matches, such as a last norm, is to join the last block
            matcher = {**matcher, "rest": [(r".", (99999,))]}
        groups = group_parameters(self.backbone, matcher, return_values=True)
        return [groups[depth] for depth in sorted(groups)]

    def resolved(self) -> dict[str, Any]:
        """The architecture's plain name, its sizes and pixel statistics; no weights to fetch."""
        config = self.backbone.pretrained_cfg
        overlay = {"mean": self.mean, "std": self.std, "interpolation": self.interpolation}
        # What timm makes of these differs between the tags of one architecture.
        overlay |= {key: config[key] for key in ("input_size", "fixed_input_size") if config.get(key)}
        kwargs = {key: value for key, value in self.timm_kwargs.items() if key not in (*SOURCES, *OURS, "num_classes")}
        kwargs["pretrained_cfg_overlay"] = overlay
        found = {"name": config["architecture"], "pretrained": False, "image_size": self.image_size}
        return {**super().resolved(), **found, "timm_kwargs": kwargs}

    def _checkpoint_gradients(self) -> None:
        try:
            self.backbone.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:  # a family without it asserts, or has no such method
            raise ArgumentError("gradient_checkpointing", f"timm's {self.name} cannot compute blocks again") from error

    def _measure(self, refused: Exception | None) -> int:
        """Width of the pooled vector, by a pass of one image: some families take a size and fail only in forward."""
        training = self.training
        try:
            with torch.no_grad():  # not inference mode: what a backbone caches here takes part in training
                pooled = self.eval()(torch.zeros(1, 3, *self.image_size, dtype=torch.uint8)).pooled
        except Exception as error:  # whatever a backbone raises, it does not work at this size
            reason = _first_line(refused or error)
            message = f"{self.name} cannot work at {self.image_size[0]} x {self.image_size[1]} pixels: {reason}"
            raise ArgumentError("image_size", message) from error
        finally:
            self.train(training)
        if pooled.ndim != 2:
            raise ArgumentError("pool", f"{self.name} gives {tuple(pooled.shape)} and not one vector an image")
        return int(pooled.shape[1])


def _check_name(name: str) -> None:
    base, tag = timm.models.split_model_name_tag(name)
    if ":" in name:  # a hub or a folder
        return
    if not timm.is_model(base):
        near = difflib.get_close_matches(base, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see timm.list_models() for those there are"
        raise ArgumentError("name", f"timm has no model {base!r}; {hint}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        near = difflib.get_close_matches(name, timm.list_pretrained(f"{base}.*"), n=3, cutoff=0)
        hint = f"did you mean {' or '.join(near)}?" if near else "leave the tag out"
        raise ArgumentError("name", f"timm has no weights {tag!r} of {base}; {hint}") from error


def _check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse a setting that the code of the model's family never names; whether its value fits, timm says later."""
    if ":" in name:  # which family it is, the hub or the folder knows
        return
    family = inspect.getmodule(timm.model_entrypoint(timm.models.split_model_name_tag(name)[0]))
    assert family is not None  # timm's entry points are functions of its modules
    code = "".join(inspect.getsource(module) for module in (family, _builder, _factory))
    made = [made for _, made in inspect.getmembers(family, inspect.isclass) if issubclass(made, nn.Module)]
    known = sorted({argument for one in made for argument in inspect.signature(one).parameters})
    for key in settings:
        if not re.search(rf"\b{re.escape(key)}\b", code):
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ArgumentError("timm_kwargs", f"timm's {name} has no {key!r}{hint}")


def _saved_arguments(name: str) -> dict[str, Any]:
    """What the ``config.json`` of a hub's or a folder's model adds to its architecture."""
    source, _, where = name.partition(":")
    if not where:
        return {}
    try:
        read = load_model_config_from_path if source == "local-dir" else load_model_config_from_hf
        return dict(read(where)[2] or {})
    except Exception as error:  # each kind of hub error has a class of its own
        raise ArgumentError("name", f"{name!r} holds no timm model that can be read: {_first_line(error)}") from error


def _create(
    name: str, pretrained: bool, size: tuple[int, int] | None, options: dict[str, Any]
) -> tuple[Any, Exception | None]:
    """A backbone, and what it said if it refused the size: it may still work at it, as convolutional networks do."""
    refused: Exception | None = None
    if size is not None:
        try:
            return timm.create_model(name, pretrained=pretrained, **{**options, "img_size": size}), None
        except TypeError:  # no argument for it
            pass
        except (AssertionError, ValueError, RuntimeError, IndexError) as error:
            refused = error
    try:
        return timm.create_model(name, pretrained=pretrained, **options), refused
    except Exception as error:  # each kind of hub error has a class of its own
        argument = _at_fault(name, options)
        what = f"the weights of {name}" if argument == "pretrained" else name
        raise ArgumentError(argument, f"timm cannot make {what}: {_first_line(error)}") from error


def _at_fault(name: str, options: dict[str, Any]) -> str:
    """The argument without which timm would make the model: `pretrained` where it does so with all others."""
    for left_out, ours in ((None, "pretrained"), *OURS.items()):
        kept = {key: value for key, value in options.items() if key != left_out}
        try:
            with torch.device("meta"):  # no memory, no time
                timm.create_model(name, **kept)
        except Exception:  # still wrong: it is not this one
            continue
        return ours
    return "timm_kwargs"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _tokens(features: Any, width: int, layout: str) -> Tensor | None:
    if not isinstance(features, Tensor):
        return None
    if features.ndim == 4:
        features = features.permute(0, 2, 3, 1) if layout == "NCHW" else features  # (B, H, W, C)
        features = features.flatten(1, 2)
    return features if features.ndim == 3 and features.shape[-1] == width else None


def _bears_channels_last(backbone: nn.Module) -> bool:
    """Whether no convolution is one that crashes torch 2.11 to 2.15 on a CPU: 1 x 1, strided, on few channels."""
    convolutions = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    return not any(c.kernel_size == (1, 1) and c.stride > (1, 1) and c.in_channels < 16 for c in convolutions)
