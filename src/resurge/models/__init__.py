"""One model a kind of task; the mixer of time is an argument."""

from resurge.models.grid import GridBlock, GridClassifier, GridStack, Patches, PatchMerge
from resurge.models.griffin import griffin
from resurge.models.language import LanguageModel
from resurge.models.matching import PairClassifier
from resurge.models.perspectives import Perspectives, freeze_trunk, with_perspectives
from resurge.models.rwkv4 import SkipBlock, rwkv4
from resurge.models.sequence import SequenceClassifier, SequenceRegressor, SequenceSummary
from resurge.models.stack import Block, Blocks, MixerMLPBlock, ResidualBlock, Stack

__all__ = [
    "Block",
    "Blocks",
    "GridBlock",
    "GridClassifier",
    "GridStack",
    "LanguageModel",
    "MixerMLPBlock",
    "PairClassifier",
    "PatchMerge",
    "Patches",
    "Perspectives",
    "ResidualBlock",
    "SequenceClassifier",
    "SequenceRegressor",
    "SequenceSummary",
    "SkipBlock",
    "Stack",
    "freeze_trunk",
    "griffin",
    "rwkv4",
    "with_perspectives",
]
