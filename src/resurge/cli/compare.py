"""The command that trains one recipe with many layers."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from resurge.cli.command import Flag, json_line
from resurge.cli.recipe import RecipeCommand
from resurge.errors import ResurgeError


@dataclass
class Compare(RecipeCommand):
    """Train a recipe with several layers, and make one table and one picture of the results.

    Data, training and all of the model but the layer are the recipe's; every setting is open to change, as in
    `resurge fit`. The recipe's own layer keeps the recipe's options, the others have their defaults. Each training is
    a run of its own in --out, beside comparison.md, .json and .png. The same command goes on where one was stopped;
    finished runs are kept, so layers and seeds can be added later.
    """

    NAME: ClassVar[str] = "compare"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "resurge compare lru/digits --layers lru,gru,mingru --seeds 3",
        "resurge compare lru/digits --layers lru,rglru,s5 --budget params --seeds 5 --epochs 10",
        "resurge compare lru/copying --layers lru,lstm --budget time --length 200 --json",
    )
    layers: str = ""
    """Their names, with commas between them: lru,gru,s5. Needed; without it, all names are listed."""
    budget: Literal["steps", "params", "time"] = "steps"
    """What all get alike: width and steps; the number of parameters, by the width; or the time, by the steps."""
    seeds: int = 3
    """Trainings a layer; the recipe's seed is the first."""
    out: Path | None = None
    """Folder of the comparison; by default runs/compare-, the recipe's name and the budget."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1" ...; by default a GPU if there is one."""
    json: Flag = False
    """Print one JSON object, the last line, in place of the table."""

    def run(self) -> int:
        from resurge.analysis import compare as shown
        from resurge.files import write_atomic
        from resurge.layers import names as known
        from resurge.training import compare

        names = [name.strip().lower() for name in self.layers.split(",") if name.strip()]
        if not names:
            raise ResurgeError(f"--layers is needed: names with commas between them. Known: {', '.join(known())}.")
        out = self.out or Path("runs") / f"compare-{self.recipe.replace('/', '-')}-{self.budget}"
        found = compare(self.recipe, self.experiment, names, self.seeds, out, budget=self.budget, device=self.device)
        if not any(row.values for row in found.rows):
            first = found.rows[0]
            raise ResurgeError(f"none of the layers could be trained; {first.layer}: {'; '.join(first.remarks)}")
        table, summary = shown.table(found), json_line(shown.summary(found))
        write_atomic(out / "comparison.md", table.encode())
        write_atomic(out / "comparison.json", (summary + "\n").encode())
        write_atomic(out / "comparison.png", shown.picture(found, out))
        print(summary if self.json else f"{table}\nkept in {out}; the picture is {out / 'comparison.png'}")
        return 0
