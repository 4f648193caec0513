"""All ops, as they are timed and checked. A new one is an entry of a module in `benchmarks/entries`."""

from benchmarks.entries import bidirectional, diagonal, selective_scan, short_conv, softmax_scan
from benchmarks.op import Op

OPS: dict[str, Op] = diagonal.OPS | short_conv.OPS | softmax_scan.OPS | selective_scan.OPS

# What the table of errors tells besides
CHECKED = OPS | {name: bidirectional.OPS[name] for name in ("bidirectional", "bidirectional_complex_constant")}

# Sizes N of the state that memory is measured at, for the ops that have one beside B T D
STATES: dict[str, list[int]] = {"selective_scan": [4, 16, 64]}


def op_named(name: str) -> Op:
    """The op of that name; "selective_scan:64" is the one with 64 states a channel."""
    name, _, N = name.partition(":")
    return selective_scan.with_state(int(N)) if N else OPS[name]
