"""Trained runs on disk: what a run folder is, and how to load and judge one."""

import json
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from resurge.data.base import InputSpec, Splits
from resurge.errors import ResurgeError, unknown
from resurge.files import write_atomic
from resurge.recipes.base import Experiment, from_dict, to_dict
from resurge.training.build import build_model
from resurge.training.checkpoint import read_weights
from resurge.training.scores import evaluate_split

FORMAT = 1
CONFIG, RESULTS, WEIGHTS = "config.json", "results.json", "model.safetensors"


@dataclass(frozen=True)
class Run:
    """A trained run: its folder, what it was asked to learn, and the model in evaluation mode, on the CPU."""

    path: Path
    recipe: str
    experiment: Experiment
    spec: InputSpec
    model: nn.Module


def load_run(path: str | Path, weights: str = WEIGHTS) -> Run:
    """The run in folder `path`, with the weights that were best in validation.

    Args:
        path: the folder that `fit` wrote.
        weights: the file to take weights from; "initial.safetensors" has those before training.

    Raises:
        ResurgeError: no run, a damaged file, or weights of another architecture than config.json describes.
    """
    path = Path(path)
    config = read_config(path)
    if config is None:
        raise ResurgeError(f"{path} is not a run: it has no {CONFIG}")
    experiment = from_dict(str(config["recipe"]), config["experiment"])
    spec = InputSpec.from_dict(config["spec"])
    model = build_model(experiment.model, spec)
    read_weights(path / weights, model)
    return Run(path, str(config["recipe"]), experiment, spec, model.eval())


def evaluate(run: Run, split: str = "test", *, device: str = "auto") -> dict[str, float]:
    """The metrics of a run over "train", "val" or "test": its loss, and accuracy, mse or bits per byte.

    Raises:
        ResurgeError: an unknown split, or data that are gone or have changed since the training.
    """
    if split not in ("train", "val", "test"):
        raise unknown("split", split, ("train", "val", "test"))
    splits = load_data(run)
    rows = run.experiment.train.eval_batch_size
    found = evaluate_split(run.model, getattr(splits, split), run.spec, rows, torch_device(device))
    run.model.cpu()
    return found


def load_data(run: Run) -> Splits:
    """The data that a run was trained on.

    Raises:
        ResurgeError: they are gone, or have changed since: the model would be judged by inputs or classes, or by
            means and deviations, that it was not trained on.
    """
    splits = run.experiment.data.load()
    for field in fields(run.spec):
        now, then = getattr(splits.spec, field.name), getattr(run.spec, field.name)
        same = now == then
        if field.name in ("mean", "std") and len(now) == len(then):  # another machine may sum in another order
            same = np.allclose(now, then, rtol=1e-6)
        if not same:
            raise ResurgeError(
                f"the data of {run.path} have changed since it was trained: '{field.name}' was {then} and is {now}"
            )
    return splits


def torch_device(name: str) -> torch.device:
    """The device called "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:1"."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise unknown("device", name, ("auto", "cpu", "cuda")) from error
    if device.type not in ("cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ResurgeError(f"device '{name}' is not here: PyTorch sees {torch.cuda.device_count()} GPUs")
    return device


def write_config(path: Path, recipe: str, experiment: Experiment, spec: InputSpec) -> None:
    """Write a run's config.json."""
    config = {
        "format": FORMAT,
        "recipe": recipe,
        "version": version("resurge"),
        "experiment": to_dict(experiment),
        "spec": spec.to_dict(),
    }
    write_atomic(path / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def read_config(path: Path) -> dict[str, Any] | None:
    """A run's config.json; None if there is none."""
    config = read_json(path / CONFIG)
    if config is None:
        return None
    if config.get("format") != FORMAT:
        raise ResurgeError(f"{path / CONFIG} has format {config.get('format')!r}; this version reads {FORMAT}")
    for key, kind in (("recipe", str), ("experiment", dict), ("spec", dict)):
        if not isinstance(config.get(key), kind):
            raise ResurgeError(f"{path / CONFIG}: '{key}' must be there as {kind.__name__}, and is {config.get(key)!r}")
    return config


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no such file."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ResurgeError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ResurgeError(f"{path} must hold an object, and holds {type(value).__name__}")
    return value


def check_same(path: Path, recipe: str, experiment: Experiment, config: dict[str, Any]) -> None:
    """Refuse to continue a run with other settings than it was started with; the first that differs is named.

    A setting that was not there yet when the run was started is at its default.
    """
    given = {"recipe": recipe, **_flat(to_dict(experiment), "")}
    begun = from_dict(str(config["recipe"]), config["experiment"])
    kept = {"recipe": config["recipe"], **_flat(to_dict(begun), "")}
    for name in [*given, *kept]:
        if given.get(name) != kept.get(name):
            raise ResurgeError(
                f"{path} was started with {name} = {kept.get(name)!r}, and now it is {given.get(name)!r}; "
                "resume with the settings of the start, or use another --out"
            )


def _flat(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
