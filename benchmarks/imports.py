"""How long `import resurge` takes beside `import torch`, each in fresh processes, in turn."""

import json
import subprocess
import sys

from benchmarks.timing import interleaved


def main(arguments: list[str]) -> None:
    def run(statement: str) -> object:
        return subprocess.run([sys.executable, "-c", statement], check=True)

    seconds = interleaved(
        {name: lambda name=name: run(f"import {name}") for name in ("torch", "resurge")},  # type: ignore[misc]
        rounds=9,
    )
    print(f"import torch {seconds['torch']:.2f} s, import resurge {seconds['resurge']:.2f} s")
    print(json.dumps({**seconds, "ratio": seconds["resurge"] / seconds["torch"]}))
