"""Commands about runs: train one, measure it, show it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from resurge.cli.command import Command, Flag, json_line, print_figures
from resurge.cli.recipe import RecipeCommand


@dataclass
class Fit(RecipeCommand):
    """Train a recipe, with every setting open to change.

    What is learnt is kept in a folder; a run that was stopped or killed goes on with --resume, to the same weights
    as if nothing had happened. `resurge fit RECIPE --help` lists the settings of a recipe.
    """

    NAME: ClassVar[str] = "fit"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "resurge fit lru/digits",
        "resurge fit lru/digits --lr 3e-3 --d-model 96 --depth 2 --seed 1 --out runs/wide",
        "resurge fit lru/digits --resume",
        "resurge fit lru/series --path my.csv --label kind --json",
    )
    out: Path | None = None
    """Folder of the run; by default runs/, the recipe's name and the seed."""
    resume: Flag = False
    """Continue the run that --out names."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1" ...; by default a GPU if there is one."""
    json: Flag = False
    """Print the test results as one JSON object, the last line."""

    def run(self) -> int:
        from resurge.training import fit

        out = self.out or Path("runs") / f"{self.recipe.replace('/', '-')}-{self.experiment.seed}"
        figures = fit(self.recipe, self.experiment, out, resume=self.resume, device=self.device)
        if self.json:
            print(json_line({"run": str(out), **figures}))
        else:
            print_figures(figures)
            print(f"kept in {out}; to see it: resurge report {out}")
        return 0


@dataclass
class Evaluate(Command):
    """Measure a trained run on a split of its data."""

    NAME: ClassVar[str] = "evaluate"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "resurge evaluate runs/lru-digits-0",
        "resurge evaluate runs/lru-digits-0 --split val --json",
    )
    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    split: Literal["train", "val", "test"] = "test"
    """Which part of the data."""
    json: Flag = False
    """Print one JSON object, the last line."""

    def run(self) -> int:
        from resurge.training import evaluate, load_run

        figures = evaluate(load_run(self.run_folder), self.split)
        if self.json:
            print(json_line({"run": str(self.run_folder), "split": self.split, **figures}))
        else:
            print_figures(figures)
        return 0


@dataclass
class Report(Command):
    """Write one self-contained HTML page about a run.

    Learning curves, eigenvalues before and after training, memory time scales, a confusion matrix or samples, and
    how to make the run again.
    """

    NAME: ClassVar[str] = "report"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "resurge report runs/lru-digits-0",
        "resurge report runs/lru-digits-0 --out digits.html",
    )
    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    out: Path | None = None
    """The page; by default report.html in the run's folder."""
    json: Flag = False
    """Print one JSON object, the last line."""

    def run(self) -> int:
        from resurge.analysis import report
        from resurge.files import write_atomic
        from resurge.training import load_run

        out = self.out or self.run_folder / "report.html"
        page = report(load_run(self.run_folder))
        write_atomic(out, page.encode())
        print(json_line({"report": str(out)}) if self.json else f"the report is {out}")
        return 0
