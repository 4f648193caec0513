"""`fit`: from an experiment to a run folder, or from a run that was cut short to the same folder."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from resurge.data.base import Splits
from resurge.errors import ResurgeError, check_seed
from resurge.files import write_atomic
from resurge.memory import reuse_freed_memory
from resurge.recipes.base import Experiment
from resurge.training.build import build_model
from resurge.training.checkpoint import check_weights, read, write_weights
from resurge.training.plan import Plan, Progress
from resurge.training.runs import RESULTS, WEIGHTS, check_same, read_config, read_json, torch_device, write_config
from resurge.training.scores import evaluate_split


class Interrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C or SIGTERM. The message says at which step, and how to go on."""


def fit(
    recipe: str,
    experiment: Experiment,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, float]:
    """Train, keep the weights that were best in validation, and judge them on the test data, once, at the end.

    Folder `out` receives config.json, initial.safetensors, model.safetensors (the best weights so far),
    checkpoint.safetensors (all that it takes to continue), metrics.csv, tensorboard/ and, last of all, results.json.
    On a CPU, equal experiments give equal bytes, however often a run was killed and resumed.

    Args:
        recipe: the name of the recipe, for the record.
        experiment: the data, the model and the training.
        out: the run folder; new or empty, unless `resume`.
        resume: continue the run in `out` from its last checkpoint (or start it, if it came to none). The result of a
            finished run is returned as it is.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:1".
        progress: show a progress bar on standard error.

    Returns:
        The test metrics: "loss", and "accuracy", "mse" or "bits_per_byte".

    Raises:
        ResurgeError: a setting out of range, a folder in use, settings that differ from those of the run to resume,
            a damaged checkpoint, a loss that is not finite, or a full disk.
        Interrupted: Ctrl-C or SIGTERM; the checkpoint is on disk.
    """
    from lightning.pytorch.utilities.seed import isolate_rng  # it takes a second or two, and reading runs needs none

    out = Path(out)
    results = _prepare(recipe, experiment, out, resume)
    if results is None:
        where = torch_device(device)
        splits = experiment.data.load()
        with isolate_rng():
            results = _train(recipe, experiment, splits, out, where, progress)
    test: dict[str, float] = results["test"]
    return test


def _prepare(recipe: str, experiment: Experiment, out: Path, resume: bool) -> dict[str, Any] | None:
    """Check that the folder can be used; the results of a run that is finished already."""
    if out.exists() and not out.is_dir():
        raise ResurgeError(f"{out} is a file, and a folder is needed")
    used = out.exists() and any(not path.name.endswith(".tmp") for path in out.iterdir())
    if not resume:
        if used:
            raise ResurgeError(f"{out} exists already: use --resume to continue it, or another --out")
        return None
    config = read_config(out)
    if config is None:
        if used:
            raise ResurgeError(f"{out} is not a run, and cannot be resumed: it has no config.json")
        return None
    check_same(out, recipe, experiment, config)
    return read_json(out / RESULTS)


def _train(
    recipe: str, experiment: Experiment, splits: Splits, out: Path, device: torch.device, show: bool
) -> dict[str, Any]:
    from resurge.training.loop import train  # Lightning, see above

    config = experiment.train
    if min(len(splits.train), len(splits.val), len(splits.test)) < 1:
        raise ResurgeError("the data must have training, validation and test items")
    plan = Plan.of(config, len(splits.train))
    check_seed(experiment.seed)
    torch.manual_seed(experiment.seed)
    model = build_model(experiment.model, splits.spec)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for left in out.glob(".*.tmp"):  # of a process killed while it wrote
            left.unlink()
    except OSError as error:
        raise ResurgeError(f"cannot use folder {out}: {error.strerror or error}") from error
    checkpoint = out / "checkpoint.safetensors"
    position = _position(checkpoint, model) if checkpoint.exists() else Progress()
    if position.batches == 0:
        write_config(out, recipe, experiment, splits.spec)  # first: it makes the folder a run that can be resumed
        write_weights(out / "initial.safetensors", model.state_dict())
    reuse_freed_memory()
    try:
        train(model, splits, experiment, plan, position, out, device, show)
        test = _test(model, splits, position, config.eval_batch_size, device)
    except KeyboardInterrupt as stop:
        step = plan.step(position.batches)
        raise Interrupted(
            f"stopped at step {step} of {plan.steps}; continue with the same command and --resume"
        ) from stop
    write_weights(out / WEIGHTS, position.best_weights)
    results = {
        "test": test,
        "val": position.best,
        "best_step": position.best_step,
        "steps": plan.step(position.batches),
        "seconds": round(position.seconds, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    write_atomic(out / RESULTS, (json.dumps(results, indent=2) + "\n").encode())
    if show:
        print("test  " + "  ".join(f"{name} {value:.4g}" for name, value in test.items()), file=sys.stderr)
    return results


def _position(checkpoint: Path, model: torch.nn.Module) -> Progress:
    """How far the run had come, refused before anything is written if the checkpoint is not one of this model."""
    kept = read(checkpoint)
    if not isinstance(kept, dict) or "progress" not in kept or "state_dict" not in kept:
        raise ResurgeError(f"{checkpoint} is no checkpoint of a run")
    weights = {name.removeprefix("model."): weight for name, weight in kept["state_dict"].items()}
    check_weights(checkpoint, weights, model)
    return Progress(**kept["progress"])


def _test(
    model: torch.nn.Module, splits: Splits, position: Progress, rows: int, device: torch.device
) -> dict[str, float]:
    model.load_state_dict(position.best_weights)
    return evaluate_split(model, splits.test, splits.spec, rows, device)
