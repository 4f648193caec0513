"""The recurrences as pure functions of tensors. An op knows no module."""

from resurge.ops.bidirectional import bidirectional_scan, bidirectional_scan_pairs
from resurge.ops.diagonal import decay_scan, diagonal_scan, diagonal_scan_pairs, normalized_decay_scan
from resurge.ops.lem_scan import lem_scan
from resurge.ops.selective_scan import selective_scan
from resurge.ops.short_conv import short_conv
from resurge.ops.sigmoid_scan import sigmoid_scan
from resurge.ops.softmax_scan import SoftmaxState, softmax_scan, softmax_step
from resurge.ops.window import windowed_scan

__all__ = [
    "SoftmaxState",
    "bidirectional_scan",
    "bidirectional_scan_pairs",
    "decay_scan",
    "diagonal_scan",
    "diagonal_scan_pairs",
    "lem_scan",
    "normalized_decay_scan",
    "selective_scan",
    "short_conv",
    "sigmoid_scan",
    "softmax_scan",
    "softmax_step",
    "windowed_scan",
]
