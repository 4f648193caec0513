"""One model a kind of task; the mixer of time is an argument."""

from resurge.models.language import LanguageModel
from resurge.models.sequence import SequenceClassifier, SequenceRegressor
from resurge.models.stack import ResidualBlock, Stack

__all__ = ["LanguageModel", "ResidualBlock", "SequenceClassifier", "SequenceRegressor", "Stack"]
