"""Commands that use a trained run: continue a text, answer to data."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from resurge.cli.command import Command, Flag, json_line
from resurge.errors import ResurgeError

_Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclass
class Generate(Command):
    """Continue a text by a trained language model, printed as it is made.

    The prompt is not repeated. Ctrl-C ends it.
    """

    NAME: ClassVar[str] = "generate"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "resurge generate runs/lru-text-0 --prompt 'def '",
        "resurge generate runs/lru-text-0 --prompt 'import ' --length 0 --temperature 0.7",
        "resurge generate runs/lru-text-0 --prompt 'class ' --top-k 20 --seed 3 --json",
    )
    run_folder: _Folder
    """Folder of the run."""
    prompt: str
    """The text to continue."""
    length: int = 500
    """Tokens to make; 0 goes on for ever."""
    temperature: float = 0.8
    """0 takes the likeliest byte each time; 1 draws as the model believes."""
    top_k: int = 0
    """Draw among so many likeliest bytes; 0 is all."""
    seed: int = 0
    """Of the draws."""
    json: Flag = False
    """Print one JSON object at the end, in place of the text as it is made."""

    def run(self) -> int:
        import torch

        from resurge.inference import decode, generate
        from resurge.models import LanguageModel
        from resurge.training import load_run

        if self.json and self.length == 0:
            raise ResurgeError("--json prints at the end, and --length 0 has none")
        run = load_run(self.run_folder)
        if not isinstance(run.model, LanguageModel):
            raise ResurgeError(
                f"{self.run_folder} is no language model: it tells a {run.spec.target} for each sequence"
            )
        if run.spec.encoding != "bytes":
            raise ResurgeError(f"{self.run_folder} does not model bytes, and its tokens cannot be shown as text")
        torch.set_num_threads(1)  # a single step is too little work to share
        prompt = run.spec.encode(self.prompt.encode(errors="surrogateescape")).tolist()
        made = generate(run.model, prompt, self.length, temperature=self.temperature, top_k=self.top_k, seed=self.seed)
        text = decode(made, run.spec.d_input - 256)
        if self.json:
            print(json_line({"prompt": self.prompt, "text": "".join(text), "seed": self.seed}))
            return 0
        for piece in text:
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
        return 0


@dataclass
class Predict(Command):
    """Answer to new data: a file of series, or standard input for as long as it comes.

    A FILE (.csv, .parquet, .npz, .ts; labels are not needed) is answered with one line a series: its name, the class
    and its probability, or the value. A text file is answered as a whole.

    From standard input (FILE is "-", or absent, or with --stream) every line is one time step, its numbers separated
    by commas or spaces, and every line is answered at once, by what is known from all steps so far. An empty line or
    the word "reset" starts a new series. Memory does not grow. Models of text read bytes instead, and answer after
    every line: classifiers with the class so far, language models with the bits that the line cost, and the bits per
    byte so far.
    """

    NAME: ClassVar[str] = "predict"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "resurge predict runs/lru-series-0 new.csv",
        "sensor | resurge predict runs/lru-series-0 --stream",
        "resurge predict runs/lru-digits-0 - < values.txt",
        "resurge predict runs/lru-text-0 file.py --json",
    )
    run_folder: _Folder
    """Folder of the run."""
    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE|-")] = "-"
    """File of series or text; "-" reads standard input as it comes."""
    stream: Flag = False
    """Read the file, too, line by line as if it came from standard input."""
    json: Flag = False
    """One JSON object a line."""

    def run(self) -> int:
        import torch

        from resurge.inference import predict
        from resurge.training import load_run

        run = load_run(self.run_folder)
        if self.file != "-" and not self.stream:
            answers = predict.answer_file(run, Path(self.file))
        else:
            torch.set_num_threads(1)  # a single step is too little work to share
            source = sys.stdin.fileno() if self.file == "-" else _open(self.file)
            answers = predict.answer_stream(run, source)
        for some in answers:
            for answer in some:
                sys.stdout.write((json_line(answer) if self.json else _words(answer)) + "\n")
            sys.stdout.flush()
        return 0


def _open(path: str) -> int:
    import os

    return os.open(path, os.O_RDONLY)


def _words(answer: dict[str, object]) -> str:
    """The values of an answer, separated by tabs."""
    return "\t".join(_word(value) for value in answer.values())


def _word(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(_word, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
