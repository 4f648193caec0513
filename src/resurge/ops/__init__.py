"""The recurrences as pure functions of tensors. An op knows no module."""

from resurge.ops.diagonal import decay_scan, diagonal_scan, diagonal_scan_pairs, normalized_decay_scan

__all__ = ["decay_scan", "diagonal_scan", "diagonal_scan_pairs", "normalized_decay_scan"]
