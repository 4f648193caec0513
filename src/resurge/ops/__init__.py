"""The recurrences as pure functions of tensors. An op knows no module."""

from resurge.ops.diagonal import diagonal_scan, diagonal_scan_pairs

__all__ = ["diagonal_scan", "diagonal_scan_pairs"]
