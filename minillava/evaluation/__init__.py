"""Held-out accuracy by question type, beside the baselines that say what it is worth."""

from minillava.evaluation.toybox import Report, evaluate

__all__ = ["Report", "evaluate"]
