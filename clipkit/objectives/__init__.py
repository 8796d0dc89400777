"""Objectives: one file each."""

from __future__ import annotations

from clipkit.objectives.base import Objective
from clipkit.objectives.info_nce import InfoNCE
from clipkit.objectives.sigmoid import Sigmoid
from clipkit.objectives.sum import Sum

__all__ = ["InfoNCE", "Objective", "Sigmoid", "Sum"]
