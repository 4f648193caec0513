"""Training: `fit` makes a run folder of an experiment, `load_run` and `evaluate` take it up again."""

from resurge.training.build import build_model
from resurge.training.fit import Interrupted, fit
from resurge.training.runs import Run, evaluate, load_run

__all__ = ["Interrupted", "Run", "build_model", "evaluate", "fit", "load_run"]
