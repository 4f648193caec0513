"""resurge: recurrent sequence models, linear RNNs first; every form of a layer computes the same function."""

from resurge import layers, models, ops, state
from resurge.dispatch import backend, backends, explain
from resurge.errors import ResurgeError
from resurge.layer import Bidirectional, ParamGroups, RecurrentLayer, TimedLayer, param_groups
from resurge.paper import Paper, cite

__version__ = "0.1.0"

__all__ = [
    "Bidirectional",
    "Paper",
    "ParamGroups",
    "RecurrentLayer",
    "ResurgeError",
    "TimedLayer",
    "__version__",
    "backend",
    "backends",
    "cite",
    "explain",
    "layers",
    "models",
    "ops",
    "param_groups",
    "state",
]
