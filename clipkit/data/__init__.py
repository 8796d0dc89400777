"""Captioned data: from a path or a name to batches."""

from __future__ import annotations

from clipkit.data.augment import ColorJitter, Flip, Grayscale, RandomAffine, RandomResizedCrop, SampleTransform, Tint
from clipkit.data.collate import CaptionChoice, CaptionedImages, Collate, Sample
from clipkit.data.images import fit_image, open_image, pixels, to_pixels
from clipkit.data.module import CaptionDataModule
from clipkit.data.order import EpochBatches, SampleKey, distinct_order, epoch_order, sample_rng
from clipkit.data.source import fingerprint, load_rows

__all__ = [
    "CaptionChoice",
    "CaptionDataModule",
    "CaptionedImages",
    "Collate",
    "ColorJitter",
    "EpochBatches",
    "Flip",
    "Grayscale",
    "RandomAffine",
    "RandomResizedCrop",
    "Sample",
    "SampleKey",
    "SampleTransform",
    "Tint",
    "distinct_order",
    "epoch_order",
    "fingerprint",
    "fit_image",
    "load_rows",
    "open_image",
    "pixels",
    "sample_rng",
    "to_pixels",
]
