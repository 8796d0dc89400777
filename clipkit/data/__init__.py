"""Captioned data: from a path or a name to batches."""

from __future__ import annotations

from clipkit.data.augment import ColorJitter, Flip, Grayscale, RandomAffine, RandomResizedCrop, SampleTransform, Tint
from clipkit.data.captions import CaptionChoice, choose_captions
from clipkit.data.collate import CaptionedImages, Collate
from clipkit.data.hashes import fingerprint
from clipkit.data.images import fit_image, open_image, pixels, to_pixels
from clipkit.data.module import CaptionDataModule
from clipkit.data.order import EpochBatches, Place, SampleKey, distinct_order, epoch_order, sample_rng
from clipkit.data.samples import Recipe, Sample, SampleMaker
from clipkit.data.skips import REASONS, Skipped, TooManyUnusable, Unusable, pack_skips, unpack_skips
from clipkit.data.source import load_rows
from clipkit.data.streams import load_stream, open_rows

__all__ = [
    "REASONS",
    "CaptionChoice",
    "CaptionDataModule",
    "CaptionedImages",
    "Collate",
    "ColorJitter",
    "EpochBatches",
    "Flip",
    "Grayscale",
    "Place",
    "RandomAffine",
    "RandomResizedCrop",
    "Recipe",
    "Sample",
    "SampleKey",
    "SampleMaker",
    "SampleTransform",
    "Skipped",
    "Tint",
    "TooManyUnusable",
    "Unusable",
    "choose_captions",
    "distinct_order",
    "epoch_order",
    "fingerprint",
    "fit_image",
    "load_rows",
    "load_stream",
    "open_image",
    "open_rows",
    "pack_skips",
    "pixels",
    "sample_rng",
    "to_pixels",
    "unpack_skips",
]
