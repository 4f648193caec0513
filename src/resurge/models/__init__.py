"""One model a kind of task; the mixer of time is an argument."""

from resurge.models.griffin import griffin
from resurge.models.language import LanguageModel
from resurge.models.rwkv4 import SkipBlock, rwkv4
from resurge.models.sequence import SequenceClassifier, SequenceRegressor
from resurge.models.stack import Block, Blocks, MixerMLPBlock, ResidualBlock, Stack

__all__ = [
    "Block",
    "Blocks",
    "LanguageModel",
    "MixerMLPBlock",
    "ResidualBlock",
    "SequenceClassifier",
    "SequenceRegressor",
    "SkipBlock",
    "Stack",
    "griffin",
    "rwkv4",
]
