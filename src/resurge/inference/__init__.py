"""Using trained models: streaming, sampling, predicting."""

from resurge.inference.generate import decode, generate
from resurge.inference.stream import Stream

__all__ = ["Stream", "decode", "generate"]
