"""The report of a run: everything that there is to see about it, on one HTML page that stands alone."""

import csv
import math
import platform
import shlex
from dataclasses import fields, is_dataclass
from html import escape
from pathlib import Path
from typing import Any

import resurge
from resurge import recipes
from resurge.analysis import evidence, figures, page
from resurge.analysis.spectra import eigenvalues
from resurge.data.base import Splits
from resurge.errors import ResurgeError
from resurge.paper import cite
from resurge.training import Run, load_run
from resurge.training.runs import RESULTS, load_data, read_json

_TEXT = 1200  # bytes of held-out text that are shown
_ENVIRONMENT = ["device", "threads", "torch", "best_step", "steps"]


def report(run: Run) -> str:
    """The page about `run`, as HTML.

    Data that is not there any more, or has changed, leaves out what needs it, and the page says so.

    Raises:
        ResurgeError: a file of the run is missing or damaged.
    """
    results = read_json(run.path / RESULTS) or {}
    parts = [_head(run, results)]
    parts += _curves(run.path / "metrics.csv")
    try:
        splits: Splits | None = load_data(run)
    except ResurgeError as error:
        splits = None
        parts.append(
            page.section("Test data", f"Not shown, because the data is not there as it was: {escape(str(error))}", "")
        )
    if splits is not None:
        parts += _text(run, splits) if run.spec.target in ("next_token", "answers") else _answers(run, splits)
    parts += _spectra(run, splits)
    parts += [_settings(run, results), _again(run)]
    parts.append(f"<footer>Made by resurge {resurge.__version__} from {escape(str(run.path))}.</footer>")
    return page.page(f"{run.recipe} — resurge", parts)


def command(run: Run) -> str:
    """The command line that makes the run again: the recipe, and every setting that differs from it."""
    words = ["resurge", "fit", run.recipe]
    try:
        recipe: Any = recipes.get(run.recipe)
    except ResurgeError:  # a recipe of the user's own
        recipe = run.experiment
    for name, value, usual in _pairs(run.experiment, recipe):
        if value != usual:
            option = name.replace("_", "-")
            words += [f"--{'' if value else 'no-'}{option}"] if isinstance(value, bool) else [f"--{option}", str(value)]
    return shlex.join([*words, "--out", str(run.path)])


def _pairs(value: Any, usual: Any) -> list[tuple[str, Any, Any]]:
    """(name, value, usual value) of all fields, nested ones included."""
    found: list[tuple[str, Any, Any]] = []
    for field in fields(value):
        own, other = getattr(value, field.name), getattr(usual, field.name, None)
        found += _pairs(own, other) if is_dataclass(own) else [(field.name, own, other)]
    return found


def _head(run: Run, results: dict[str, Any]) -> str:
    model = run.experiment.model
    n = sum(p.numel() for p in run.model.parameters())
    task = (type(run.experiment.data).__doc__ or "").strip().split("\n")[0].rstrip(".:")
    lead = f"{task}. Learnt by {model.depth} {model.layer.NAME.upper()} blocks of width {model.d_model}"
    test = results.get("test", {})
    cards = [(_figure(name, value), f"{name.replace('_', ' ')} on test data") for name, value in test.items()]
    cards.sort(key=lambda card: card[1].startswith("loss"))  # the task's own metric first
    cards.append((f"{n:,}", "parameters"))
    if "seconds" in results:
        cards.append((_duration(results["seconds"]), f"of training on {results.get('device', 'cpu')}"))
        lead += f", {results['steps']:,} steps"
    if not test:
        lead += "; the training has not come to its end"
    slug, _, name = run.recipe.partition("/")
    file = Path(str(getattr(run.experiment.data, "path", ""))).stem.removesuffix("_TRAIN")
    return page.head(slug, f"{name or slug}{file and ': '}{file}", lead + ".", cards)


def _curves(path: Path) -> list[str]:
    steps: dict[str, list[float]] = {}
    values: dict[str, list[float]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, cell in row.items():
                    if cell and name.startswith(("train_", "val_")) and math.isfinite(float(cell)):
                        steps.setdefault(name, []).append(float(row["step"]))
                        values.setdefault(name, []).append(float(cell))
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResurgeError(f"{path} is not a log of a run: {error}") from error
    metrics = [name.removeprefix("val_") for name in values if name.startswith("val_") and name != "val_loss"]
    if not metrics:
        return []
    note = "Training figures are means since the line before, with dropout; validation uses the whole split."
    return [page.section("Learning", note, page.figure(figures.curves(steps, values, metrics[0])))]


def _answers(run: Run, splits: Splits) -> list[str]:
    if run.spec.target == "value":
        drawn = figures.scatter(*evidence.predictions(run, splits.test))
        return [page.section("Test data", f"{len(splits.test):,} sequences, each a dot.", page.figure(drawn))]
    counts = evidence.confusion(run, splits.test)
    classes = run.spec.classes or [str(i) for i in range(run.spec.d_output)]
    right = int(counts.trace())
    note = f"{right:,} of {counts.sum():,} test sequences are where they belong, on the diagonal."
    wrong = [
        (int(counts[i, j]), classes[i], classes[j]) for i in range(len(classes)) for j in range(len(classes)) if i != j
    ]
    count, true, said = max(wrong, default=(0, "", ""), key=lambda entry: entry[0])
    if count:
        times = {1: "once", 2: "twice"}.get(count, f"{count} times")
        note += f" The most frequent mistake, {times}: “{escape(true)}” taken for “{escape(said)}”."
    return [page.section("Confusions", note, page.figure(figures.confusion(counts, classes)))]


def _text(run: Run, splits: Splits) -> list[str]:
    if run.spec.encoding != "bytes":
        return []
    tokens, bits = evidence.surprise(run, splits.test, _TEXT)
    offset = run.spec.d_input - 256
    pieces = _characters(bytes(max(0, token - offset) for token in tokens), bits)
    note = "The darker a character, the more bits it cost the model, which saw only what stands before it."
    parts = [page.section("Held-out text", note, page.shaded([(text, cost / 12) for text, cost in pieces]))]
    prompt = "\n"
    made = evidence.samples(run, prompt, 500, range(2))
    note = "Sampled byte by byte at temperature 0.8, each from the state that the byte before left."
    parts.append(page.section("Samples", note, "".join(page.listing(text.lstrip("\n")) for text in made)))
    return parts


def _characters(data: bytes, bits: list[float]) -> list[tuple[str, float]]:
    """The characters of UTF-8 text, each with the bits of all its bytes."""
    pieces: list[tuple[str, float]] = []
    at = 0
    while at < len(data):
        size = next((n for n in (1, 2, 3, 4) if _is_text(data[at : at + n])), 1)
        pieces.append((data[at : at + size].decode("utf-8", "replace"), sum(bits[at : at + size])))
        at += size
    return pieces


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _spectra(run: Run, splits: Splits | None) -> list[str]:
    after = eigenvalues(run.model)
    if not after:
        note = f"The recurrence of {run.experiment.model.layer.NAME} is not a fixed linear map: it has no eigenvalues."
        return [page.section("Eigenvalues", escape(note), "")]
    before = eigenvalues(load_run(run.path, "initial.safetensors").model)
    largest = max(float(values.abs().max()) for values in after.values())
    note = (
        'Where each state turns and fades in one step: <span class="key hollow"></span>before training, '
        f'<span class="key"></span>after. The largest modulus is {largest:.4f}; 1 would never forget.'
    )
    length = 0
    if splits is not None:
        batch = splits.train.batch(_first(splits))
        length = batch.inputs.shape[1]
    scales = "How many steps a state takes to fade to 1/e, over all layers."
    return [
        page.section("Eigenvalues", note, page.figure(figures.disks(before, after))),
        page.section("Memory", scales, page.figure(figures.memory(before, after, length))),
    ]


def _first(splits: Splits) -> Any:
    import torch

    return torch.arange(min(32, len(splits.train)))


def _settings(run: Run, results: dict[str, Any]) -> str:
    experiment = run.experiment
    layer = _rows(experiment.model.layer)
    model = [row for row in _rows(experiment.model) if row[0] != "layer"]
    data = [("name", experiment.data.name), *_rows(experiment.data)]
    here = [(name, str(results[name])) for name in _ENVIRONMENT if name in results]
    here += [("python", platform.python_version()), ("system", f"{platform.system()} {platform.machine()}")]
    tables = [
        page.table("Model", model),
        page.table(f"Layer: {experiment.model.layer.NAME}", layer),
        page.table("Data", data),
        page.table("Training", [*_rows(experiment.train), ("seed", str(experiment.seed))]),
        page.table("Environment", here),
    ]
    return page.section("Settings", "All of them; what the recipe does not fix has its default.", page.columns(tables))


def _again(run: Run) -> str:
    body = page.listing(command(run))
    papers = cite(run.model)
    if papers:
        body += page.listing(papers)
    note = "The command trains the same weights again; on a CPU, bit for bit. Cite the method as below."
    return page.section("Make it again", note, body)


def _rows(value: Any) -> list[tuple[str, str]]:
    return [(field.name, _plain(getattr(value, field.name))) for field in fields(value)]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value) or "—"


def _figure(name: str, value: float) -> str:
    return f"{100 * value:.2f} %" if name == "accuracy" else f"{value:.4g}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
