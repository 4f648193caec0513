"""Everything that docs/guide/speed.md tells, one command after the other, and then what was asked for beside it.

On a GPU within ten minutes: ops at large sizes, training steps, decoding and precision. On the CPU also JAX as it is
installed, memory and first calls, in about an hour on two cores; nothing else should run meanwhile.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks import results

ON_GPU = (["ops", "--minutes", "6"], ["lengths"], ["train", "--rounds", "5"], ["precision"])
ON_CPU = (["ops"], ["lengths"], ["installed"], ["train"], ["memory"], ["first_call"], ["precision"])


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks all", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="by default the GPU if there is one")
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder of the JSON and the pictures")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into the documentation")
    arguments = parser.parse_args(words)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    write = ["--write-docs"] if arguments.write_docs else []
    failed = []
    start = time.monotonic()
    for name, *options in ON_GPU if device == "cuda" else ON_CPU:
        command = [sys.executable, "-m", "benchmarks", name, *options]
        if name in ("ops", "lengths", "train", "precision"):
            command += ["--device", device]
        command += write if name == "precision" else ["--out", str(arguments.out)]
        print(f"\n{time.monotonic() - start:.0f} s: {' '.join(command[1:])}", flush=True)
        if subprocess.run(command).returncode:
            failed.append(name)
    subprocess.run([sys.executable, "-m", "benchmarks", "claims", str(arguments.out), *write], check=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
        raise SystemExit(1)
