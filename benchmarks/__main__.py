"""Benchmarks: `python -m benchmarks NAME`. Ratios of one run; every contestant is timed in turn, medians are told."""

import argparse
import importlib

NAMES = {
    "all": "what the documentation tells: on the CPU about an hour, on a GPU within ten minutes",
    "ops": "every op against the hardware's limit and the peers, T from 128 to 1M",
    "lengths": "the diagonal scan's time against T, all lengths in turn",
    "installed": "against JAX, each in a process of its own and as its users have it",
    "train": "training steps and decoding: the LRU classifier, a Mamba layer, every layer's step",
    "precision": "the error of every op against float64, for the documentation; --check",
    "first_call": "a new process's first calls, and that nothing is compiled at import",
    "memory": "peak memory of each op, forward and backward, against its sizes",
    "imports": "the time of `import resurge` beside `import torch`",
    "stream_memory": "resident memory over a million streamed steps",
    "kernels": "every Triton kernel compiled ahead of time: registers, shared memory, spills",
    "tune": "on a GPU: the launch parameters of the Triton kernels, measured anew",
    "claims": "what was measured beside what was asked for; --write-docs puts it into the documentation",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="\n".join(f"{name:15s}{text}" for name, text in NAMES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=NAMES)
    arguments, rest = parser.parse_known_args()
    importlib.import_module(f"benchmarks.{arguments.name}").main(rest)


if __name__ == "__main__":
    main()
