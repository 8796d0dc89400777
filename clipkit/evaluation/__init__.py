"""Evaluators: what a model, any model that scores classes or encodes pairs, is worth on a task."""

from __future__ import annotations

from clipkit.evaluation.base import Evaluator, PairEncoder, Rankings, Scorer
from clipkit.evaluation.catalogue import Task, check_tasks, make_evaluator, read_tasks
from clipkit.evaluation.report import Results, to_json, to_table
from clipkit.evaluation.retrieval import Retrieval, RetrievalEvaluator
from clipkit.evaluation.zero_shot import Confusion, ZeroShot, ZeroShotEvaluator, confusions

__all__ = [
    "Confusion",
    "Evaluator",
    "PairEncoder",
    "Rankings",
    "Results",
    "Retrieval",
    "RetrievalEvaluator",
    "Scorer",
    "Task",
    "ZeroShot",
    "ZeroShotEvaluator",
    "check_tasks",
    "confusions",
    "make_evaluator",
    "read_tasks",
    "to_json",
    "to_table",
]
