"""Training: `fit` makes a run folder of an experiment, `load_run` and `evaluate` take it up again, `compare`
makes runs of many layers."""

from resurge.training.build import build_model
from resurge.training.comparison import Comparison, Row, compare
from resurge.training.fit import Interrupted, fit
from resurge.training.runs import Run, evaluate, load_run

__all__ = ["Comparison", "Interrupted", "Row", "Run", "build_model", "compare", "evaluate", "fit", "load_run"]
