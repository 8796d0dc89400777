"""Towers: from pixels or tokens to features."""

from __future__ import annotations

from clipkit.towers.bag_of_words import BagOfWordsTower
from clipkit.towers.base import TextTower, Tower, VisionTower
from clipkit.towers.clip_text import ClipTextTower
from clipkit.towers.huggingface import HuggingFaceTower
from clipkit.towers.siglip_text import SiglipTextTower
from clipkit.towers.timm import TimmTower

__all__ = [
    "BagOfWordsTower",
    "ClipTextTower",
    "HuggingFaceTower",
    "SiglipTextTower",
    "TextTower",
    "TimmTower",
    "Tower",
    "VisionTower",
]
