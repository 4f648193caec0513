"""One recipe with many layers: which sizes they get, and their trainings, one folder each."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from resurge.data.base import Splits
from resurge.errors import Diverged, ResurgeError, at_least
from resurge.files import write_atomic
from resurge.layer import RecurrentLayer
from resurge.layers import LayerOptions, layer_class, options_type
from resurge.recipes.base import Experiment, ModelConfig, to_dict
from resurge.training.build import build_model
from resurge.training.fit import Interrupted, fit
from resurge.training.plan import Plan, Progress
from resurge.training.runs import RESULTS, read_json, torch_device
from resurge.training.scores import metric_name

Budget = Literal["steps", "params", "time"]
"""What every layer gets alike, besides the recipe: width and steps; parameters and steps; or width and seconds."""

TRIALS = "trials.json"
_WARM, _TIMED = 4, 12  # steps of a trial: first calls compile
_FAR = 0.1  # share of the parameters by which a model may differ without remark
_REFUSED = 64  # widths in a row that a layer may refuse before it counts as impossible


@dataclass
class Row:
    """What became of one layer."""

    layer: str
    own: bool
    """It is the recipe's own layer, with the recipe's options."""
    d_model: int = 0
    parameters: int = 0
    """0 for a layer that the recipe cannot carry."""
    steps: int = 0
    seeds: list[int] = field(default_factory=list)
    """Those of the trainings that came to their end."""
    values: list[float] = field(default_factory=list)
    """The metric on the test data, one a seed."""
    seconds: list[float] = field(default_factory=list)
    """Of training, validation included, one a seed."""
    runs: list[str] = field(default_factory=list)
    """Their folders, below that of the comparison."""
    remarks: list[str] = field(default_factory=list)
    """Why it was not trained, which trainings failed, or that its size is another than asked for."""


@dataclass
class Comparison:
    """The rows of a comparison, in the order in which the layers were named."""

    recipe: str
    metric: str
    budget: Budget
    parameters: int
    """Of the recipe's own model."""
    rows: list[Row]


@dataclass(frozen=True)
class _Entry:
    row: Row
    experiment: Experiment


def compare(
    recipe: str,
    experiment: Experiment,
    names: Sequence[str],
    seeds: int,
    out: str | Path,
    *,
    budget: Budget = "steps",
    device: str = "auto",
    progress: bool = True,
) -> Comparison:
    """Train the stack of `experiment` with each of the layers, `seeds` times, each run in a folder `out`/LAYER-SEED.

    Data, training and all of the model but the layer are the recipe's. The recipe's own layer keeps the recipe's
    options, all others have their defaults. Runs that are finished are not made again, and one that was stopped goes
    on, so that a comparison is continued, or given more layers or seeds, by calling this once more.

    Args:
        recipe: the name of the recipe, for the record.
        experiment: the data, the model and the training; its seed is the first of the seeds.
        names: of the layers; a name given twice counts once.
        seeds: trainings a layer.
        out: folder of the comparison.
        budget: "steps": every layer has the recipe's d_model, and trains for its steps. "params": d_model is chosen
            for each layer so that its model has as nearly as many parameters as the recipe's own as widths allow.
            "time": each layer trains for as many steps as take it the time of the recipe's own, which is found by a
            short trial on this machine and kept in `out`; the learning rate has its whole course in them.
        device: as for `fit`.
        progress: tell on standard error what is going on.

    Returns:
        A row a layer. Layers that the recipe cannot carry and trainings that diverged have the reason in its remarks.

    Raises:
        ResurgeError: an unknown layer, no layer, no seed; what `fit` raises, but for a training that diverges; or runs
            in `out` that were made with other settings.
        Interrupted: Ctrl-C or SIGTERM; finished runs and the last checkpoint are on disk.
    """
    out, where = Path(out), torch_device(device)
    names = list(dict.fromkeys(names))
    at_least(1, {"seeds": seeds, "number of layers": len(names)})
    for name in names:
        layer_class(name)
    splits = experiment.data.load()
    steps = Plan.of(experiment.train, len(splits.train)).steps
    with torch.random.fork_rng():
        own = _size(experiment.model, splits)
        entries = [_entry(name, experiment, splits, own, steps, budget) for name in names]
        if budget == "time":
            entries = _equal_times(entries, experiment, splits, steps, out, where, progress)
    total = seeds * len(entries)
    for i, entry in enumerate(entries):
        for k in range(seeds if entry.row.parameters else 0):
            _run(recipe, entry, experiment.seed + k, out, device, f"[{i * seeds + k + 1}/{total}]", progress)
    return Comparison(recipe, metric_name(splits.spec), budget, own, [entry.row for entry in entries])


def _entry(name: str, experiment: Experiment, splits: Splits, target: int, steps: int, budget: Budget) -> _Entry:
    """The experiment with another layer, and the head of its row."""
    row = Row(name, own=name == experiment.model.layer.NAME, steps=steps)
    options: LayerOptions = experiment.model.layer if row.own else options_type(name)()
    model = replace(experiment.model, layer=options)
    try:
        if budget == "params" and not row.own:
            width = nearest_width(lambda width: _size(replace(model, d_model=width), splits), target)
            model = replace(model, d_model=width)
        row.parameters = _size(model, splits)
        row.d_model = model.d_model
        if budget == "params" and abs(row.parameters - target) > _FAR * target:
            row.remarks.append(f"no width comes nearer to {target:,} parameters")
    except ResurgeError as error:
        row.remarks.append(str(error))
    return _Entry(row, replace(experiment, model=model))


def _size(config: ModelConfig, splits: Splits) -> int:
    """The number of parameters of a model that the data can pass through.

    Raises:
        ResurgeError: it cannot be built, refuses the data, or would see what it has to tell.
    """
    model = build_model(config, splits.spec)
    if splits.spec.target == "next_token" and any(
        not module.CAUSAL for module in model.modules() if isinstance(module, RecurrentLayer)
    ):
        raise ResurgeError("the layer would see the token that it has to predict")
    with torch.no_grad():
        model.eval()(splits.train.batch(torch.arange(1)).inputs[:, :8])
    return sum(p.numel() for p in model.parameters())


def nearest_width(size: Callable[[int], int], target: int) -> int:
    """The width whose size is nearest to `target`; `size` grows with the width, and raises at widths that are refused.

    Raises:
        ResurgeError: what `size` raised, if it refuses `_REFUSED` widths in a row.
    """

    @cache
    def accepted(width: int) -> tuple[int, int]:
        """The first width from here on that is not refused, and its size."""
        refusal: ResurgeError
        for candidate in range(width, width + _REFUSED):
            try:
                return candidate, size(candidate)
            except ResurgeError as error:
                refusal = error
        raise refusal

    low, high = 1, 2
    while accepted(high)[1] < target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if accepted(middle)[1] < target:
            low = middle
        else:
            high = middle
    return min(accepted(low), accepted(high), key=lambda found: abs(found[1] - target))[0]


def _equal_times(
    entries: list[_Entry],
    experiment: Experiment,
    splits: Splits,
    steps: int,
    out: Path,
    device: torch.device,
    progress: bool,
) -> list[_Entry]:
    """The entries with as many steps each as take the time of the recipe's own."""
    kept = read_json(out / TRIALS) or {"trials": []}

    def trial(of: Experiment) -> float:
        asked = {"device": str(device), "experiment": to_dict(of)}
        for one in kept["trials"]:
            if asked.items() <= one.items():
                return float(one["seconds_a_step"])
        if progress:
            print(f"trial of {of.model.layer.NAME}: how long a step takes", file=sys.stderr, flush=True)
        found = seconds_a_step(of, splits, device)
        kept["trials"].append({**asked, "seconds_a_step": found})
        write_atomic(out / TRIALS, (json.dumps(kept, indent=2) + "\n").encode())
        return found

    own = trial(experiment)
    timed = []
    for entry in entries:
        if entry.row.parameters and not entry.row.own:
            entry.row.steps = max(1, round(steps * own / trial(entry.experiment)))
            train = replace(entry.experiment.train, max_steps=entry.row.steps)
            entry = _Entry(entry.row, replace(entry.experiment, train=train))
        timed.append(entry)
    return timed


def seconds_a_step(experiment: Experiment, splits: Splits, device: torch.device) -> float:
    """The median time of a training step, from the batch to the new weights, first calls left out."""
    from resurge.training.module import TrainingModule  # Lightning takes a second or two

    config = experiment.train
    model = build_model(experiment.model, splits.spec).to(device).train()
    plan = Plan.of(replace(config, max_steps=_WARM + _TIMED, val_steps=0, accumulate=1), len(splits.train))
    module = TrainingModule(model, splits, config, plan, Progress(), experiment.seed)
    optimiser = module.configure_optimizers()
    half = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16-mixed")

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    times: list[float] = []
    while len(times) < _WARM + _TIMED:
        for batch in islice(module.loader, _WARM + _TIMED - len(times)):
            start = clock()
            batch = module.transfer_batch_to_device(batch, device, 0)
            with half:
                loss = module.training_step(batch, 0)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.clip or torch.inf)
            optimiser.step()
            times.append(clock() - start)
    return statistics.median(times[_WARM:])


def _run(recipe: str, entry: _Entry, seed: int, out: Path, device: str, count: str, progress: bool) -> None:
    """Train one layer with one seed, or take what was trained before, and write it into the row."""
    row, name = entry.row, f"{entry.row.layer}-{seed}"
    finished = (out / name / RESULTS).exists()
    if progress:
        size = f"d_model {row.d_model}, {row.parameters:,} parameters, {row.steps:,} steps"
        print(f"{count} {row.layer}, seed {seed}: {size}{', was finished' * finished}", file=sys.stderr, flush=True)
    train = partial(fit, recipe, replace(entry.experiment, seed=seed), out / name, resume=True)
    try:
        figures = train(device=device, progress=progress and not finished)
    except Interrupted as stop:
        done = str(stop).split(";")[0]
        raise Interrupted(f"{row.layer}, seed {seed}: {done}; the same command goes on from there") from stop
    except Diverged as error:
        row.remarks.append(f"seed {seed}: {str(error).split(':')[0]}")
    except torch.OutOfMemoryError:
        row.remarks.append(f"seed {seed}: out of memory")
    else:
        results = read_json(out / name / RESULTS) or {}
        row.seeds.append(seed)
        row.values.append(next(value for metric, value in figures.items() if metric != "loss"))
        row.seconds.append(float(results.get("seconds", 0.0)))
        row.runs.append(name)
