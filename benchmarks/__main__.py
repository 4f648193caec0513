"""Benchmarks: `python -m benchmarks NAME`. Ratios of one run; every contestant is timed in turn, medians are told."""

import argparse
import importlib

NAMES = {
    "train": "a training step of a deep LRU classifier beside its matrix products, torch.nn.LSTM and JAX",
    "imports": "the time of `import resurge` beside `import torch`",
    "stream_memory": "resident memory over a million streamed steps",
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
