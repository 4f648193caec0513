"""The pictures of the documentation, each drawn from what the system computes: `python docs/images/draw.py SLUG...`.

Without a slug, all systems' pictures. `digits` draws the README's, from the run of `make demo` in runs/demo, and
`curves` those of longer runs, from their folders in runs/.
"""

import sys
import time
from pathlib import Path

import torch
from drawings import PICTURES, curves, digits
from drawings.style import drawing, save

HERE = Path(__file__).parent


def main(slugs: list[str]) -> None:
    torch.set_num_threads(1)  # the same sums in the same order everywhere
    for slug in slugs or PICTURES:
        start = time.process_time()
        if slug == "digits":
            digits.draw(HERE.parents[1] / "runs" / "demo", HERE / "digits.svg")
            continue
        if slug == "curves":
            with drawing():
                save(curves.draw(HERE.parents[1] / "runs"), HERE / "curves.svg")
                save(curves.draw_adding(HERE.parents[1] / "runs"), HERE / "adding.svg")
            continue
        torch.manual_seed(0)
        path = HERE / "systems" / f"{slug}.svg"
        with drawing():
            save(PICTURES[slug](), path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB, {time.process_time() - start:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
