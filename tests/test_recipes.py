"""Recipes: every one can be had by name, written down, read back, and built."""

import inspect
import json
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from resurge import ResurgeError, layers, recipes
from resurge.cli import main
from resurge.data import Batch, InputSpec, task
from resurge.layer import param_groups
from resurge.layers import options_type
from resurge.paper import Paper
from resurge.recipes import Experiment, ModelConfig, TrainConfig
from resurge.training import build_model
from resurge.training.plan import Plan
from resurge.training.scores import measure

SPECS = {
    "digits": InputSpec(kind="values", d_input=1, target="class", d_output=10),
    "smnist": InputSpec(kind="values", d_input=1, target="class", d_output=10),
    "psmnist": InputSpec(kind="values", d_input=1, target="class", d_output=10),
    "scifar": InputSpec(kind="values", d_input=1, target="class", d_output=10),
    "scifar_colour": InputSpec(kind="values", d_input=3, target="class", d_output=10),
    "imdb": InputSpec(kind="tokens", d_input=257, target="class", d_output=2, encoding="bytes"),
    "listops": InputSpec(kind="tokens", d_input=20, target="class", d_output=10, encoding="listops"),
    "pathfinder": InputSpec(kind="values", d_input=1, target="class", d_output=2),
    "retrieval": InputSpec(kind="tokens", d_input=257, target="class", d_output=2, encoding="bytes", pairs=True),
    "text": InputSpec(kind="tokens", d_input=256, target="next_token", d_output=256, encoding="bytes"),
    "adding": InputSpec(kind="values", d_input=2, target="value", d_output=1),
    "copying": InputSpec(kind="tokens", d_input=10, target="answers", d_output=10),
    "regression": InputSpec(kind="values", d_input=4, target="value", d_output=1),
    "series": InputSpec(kind="values", d_input=6, target="class", d_output=4),
}


def some_inputs(spec: InputSpec, B: int, T: int) -> Tensor:
    """Values or tokens by chance, of B items of T steps."""
    shape = (B, 2, T) if spec.pairs else (B, T)
    return torch.randn(*shape, spec.d_input) if spec.kind == "values" else torch.randint(spec.d_input, shape)


def test_systems_say_where_they_come_from() -> None:
    slugs = []
    for system in recipes.systems():
        assert isinstance(system.PAPER, Paper)
        assert system.CLAIM.endswith(".")
        assert system.EXPERIMENTS or inspect.getdoc(system)
        slugs.append(system.PAPER.slug)
    assert len(slugs) == len(set(slugs))
    assert "lru" in slugs
    for_gates = {"regression"}  # what a recurrence without gates cannot learn
    assert {f"lru/{name}" for name in SPECS.keys() - for_gates} <= set(recipes.names())


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_can_be_written_down_and_built(name: str) -> None:
    experiment = recipes.get(name)
    assert experiment is not recipes.get(name)
    written = recipes.to_dict(experiment)
    read = recipes.from_dict(name, json.loads(json.dumps(written)))
    assert isinstance(read, Experiment)
    assert recipes.to_dict(read) == written
    assert type(read.data) is type(experiment.data)
    plan = Plan.of(experiment.train, 100)
    assert 0 < plan.val_steps <= plan.steps
    spec = SPECS[experiment.data.name]
    model = build_model(experiment.model, spec)
    outputs, _ = model.eval()(some_inputs(spec, 2, 5))
    assert outputs.shape == ((2, 5, spec.d_output) if spec.target in ("next_token", "answers") else (2, spec.d_output))


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_learns_a_batch_by_heart(name: str) -> None:
    """Its layer, its loss and its groups of parameters, at a small width: ten steps on one random batch."""
    experiment = recipes.override(recipes.get(name), model__d_model=8, model__dropout=0.0)
    spec, B, T = SPECS[experiment.data.name], 4, 12
    inputs = some_inputs(spec, B, T)
    rows = (B,) if spec.target == "class" else (B, T)
    targets = torch.randn(B, spec.d_output) if spec.target == "value" else torch.randint(spec.d_output, rows)
    batch = Batch(inputs, targets, None)
    torch.manual_seed(0)
    model = build_model(experiment.model, spec)
    groups = param_groups(model)
    optimiser = torch.optim.AdamW([{"params": group} for group in groups if group], lr=3e-3, weight_decay=0.0)
    losses = []
    for _ in range(10):
        optimiser.zero_grad()
        loss, _ = measure(model(inputs)[0], batch, spec)
        loss.backward()
        assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]


def test_the_papers_hyperparameters_of_listops() -> None:
    experiment = recipes.get("lru/listops")
    model, train, layer = experiment.model, experiment.train, recipes.to_dict(experiment)["model"]["layer"]
    assert (model.depth, model.d_model, model.dropout, model.norm, model.prenorm) == (6, 128, 0.0, "batch", True)
    assert (layer["d_state"], layer["r_min"], layer["r_max"]) == (256, 0.0, 0.99)
    assert (train.max_steps, train.batch_size, train.lr_factor, train.weight_decay) == (80_000, 32, 0.5, 0.05)
    assert train.warmup == 0.1


def test_every_system_of_a_layer_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["systems", "--json"]) == 0
    listed = {system["slug"]: system["layers"] for system in json.loads(capsys.readouterr().out)["systems"]}
    for name in layers.names():
        cls = layers.layer_class(name)
        if cls.PAPER.slug in listed:
            assert cls.__name__ in listed[cls.PAPER.slug]
    assert listed["mingru"] == ["MinGRU", "MinLSTM"]
    assert all(listed[system.PAPER.slug] for system in recipes.systems() if system.EXPERIMENTS)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ResurgeError, match=r"unknown recipe 'lru/digit'\. Did you mean 'lru/digits'\?"):
        recipes.get("lru/digit")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("train.epoch", 3, "unknown key 'train.epoch'. Did you mean 'epochs'?"),
        ("train.epochs", "3", "'train.epochs' must be int, and is '3'"),
        ("train.lr", True, "'train.lr' must be float, and is True"),
        ("model.layer.d_sate", 3, "unknown key 'model.layer.d_sate'. Did you mean 'd_state'?"),
        ("model.layer.name", "lur", "unknown layer 'lur'. Did you mean 'lru'?"),
        ("data.name", "digit", "unknown task 'digit'. Did you mean 'digits'?"),
        ("model", 3, "'model' must be an object, and is 3"),
        ("sed", 3, "unknown key 'sed'. Did you mean 'seed'?"),
        ("seed", 1.5, "'seed' must be int, and is 1.5"),
    ],
)
def test_a_damaged_experiment_is_refused_by_the_key(path: str, value: Any, words: str) -> None:
    written = recipes.to_dict(recipes.get("lru/digits"))
    owner = written
    *parents, key = path.split(".")
    for parent in parents:
        owner = owner[parent]
    owner[key] = value
    with pytest.raises(ResurgeError, match=r"^lru/digits: ") as error:
        recipes.from_dict("lru/digits", written)
    assert words in str(error.value)


def test_override_changes_a_copy() -> None:
    experiment = recipes.get("lru/digits")
    changed = recipes.override(experiment, train__epochs=3, model__layer__d_state=16, train__lr=1, seed=4)
    assert (changed.train.epochs, changed.train.lr, changed.seed) == (3, 1.0, 4)
    assert recipes.to_dict(changed)["model"]["layer"]["d_state"] == 16
    assert recipes.to_dict(experiment) == recipes.to_dict(recipes.get("lru/digits"))
    for change, words in [
        ({"train__epoch": 3}, "unknown field of TrainConfig in 'train.epoch' 'epoch'. Did you mean 'epochs'?"),
        ({"train__epochs": 3.5}, "'train.epochs' must be int, and is 3.5"),
    ]:
        with pytest.raises(ResurgeError) as error:
            recipes.override(experiment, **change)
        assert words in str(error.value)


def test_every_setting_is_explained() -> None:
    for owner in (ModelConfig, TrainConfig, Experiment):
        source = inspect.getsource(owner)
        for field in fields(owner):
            assert f"    {field.name}: " in source
        assert source.count('"""') >= 2 * len(fields(owner))


def test_another_layer_in_a_recipe() -> None:
    experiment = recipes.override(recipes.get("lru/digits"), model__layer=options_type("gru")(d_state=8))
    read = recipes.from_dict("x", recipes.to_dict(experiment))
    assert is_dataclass(read.model.layer)
    assert recipes.to_dict(read)["model"]["layer"] == {"name": "gru", "d_state": 8}
    assert read.data == task("digits")()
