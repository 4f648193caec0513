"""Small parts that layers and models share."""

from resurge.nn.blocks import BatchNorm, GatedLinear, HalfGatedLinear, LayerNorm, Norm, RMSNorm, TiedDropout, norm
from resurge.nn.bounded import LowerBounds, share_lower_bounds
from resurge.nn.pooling import LastPool, MeanPool, Pool

__all__ = [
    "BatchNorm",
    "GatedLinear",
    "HalfGatedLinear",
    "LastPool",
    "LayerNorm",
    "LowerBounds",
    "MeanPool",
    "Norm",
    "Pool",
    "RMSNorm",
    "TiedDropout",
    "norm",
    "share_lower_bounds",
]
