"""Training: what a run leaves, what it refuses, and that stopping it anywhere changes nothing."""

import dataclasses
import errno
import io
import json
import math
import os
import pickle
import platform
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import killing
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from resurge import ResurgeError, recipes
from resurge.data import Series, Text
from resurge.data.base import Batch, InputSpec
from resurge.layer import param_groups
from resurge.layers import options_type
from resurge.memory import FreedMemory
from resurge.models import LanguageModel
from resurge.recipes import ModelConfig
from resurge.training import Interrupted, build_model, evaluate, fit, load_run
from resurge.training.checkpoint import pack, read, read_weights, write
from resurge.training.logs import TIME_COLUMNS, CSVLog, columns
from resurge.training.plan import Lap, Plan, Progress, learning_rate
from resurge.training.scores import InOrder, advance, better, evaluate_split, measure, metrics

LRU = options_type("lru")


def tiny(**changes: Any) -> recipes.Experiment:
    small = {"model__d_model": 8, "model__depth": 1, "train__max_steps": 12, "train__val_steps": 6}
    return recipes.override(recipes.get("lru/digits"), **{**small, "train__log_steps": 4, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    fit("lru/digits", tiny(), out, progress=False, device="cpu")
    return out


class Payload:
    """Unpickling this makes a file: proof that something was unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


# ---- files ----


def test_any_nested_value_survives_a_file(tmp_path: Path) -> None:
    shared = torch.arange(6.0).view(2, 3)
    value = {
        "state": {0: {"step": torch.tensor(3.0), "m": shared}, 1: {"m": shared.T}},
        "a.b": shared,
        "a": {"b": shared + 1},
        "betas": (0.9, 0.999),
        "list": [1, 2.5, None, True, "x", float("inf"), ()],
        "half": torch.ones(3, dtype=torch.bfloat16),
    }
    write(tmp_path / "x.safetensors", value)
    found = read(tmp_path / "x.safetensors")
    assert pack(found) == pack(value) == (tmp_path / "x.safetensors").read_bytes()
    assert found["betas"] == (0.9, 0.999)
    assert found["list"] == value["list"]
    assert set(found["state"]) == {0, 1}
    assert torch.equal(found["a"]["b"], shared + 1)
    assert torch.equal(found["a.b"], shared)
    with pytest.raises(TypeError, match=r"'a\.0' is object"):
        pack({"a": [object()]})


def test_a_file_that_is_no_checkpoint_is_named_and_never_unpickled(tmp_path: Path) -> None:
    path, proof = tmp_path / "model.safetensors", tmp_path / "proof"
    zipped = io.BytesIO()
    torch.save({"x": Payload(proof)}, zipped)
    whole = pack({"x": torch.zeros(100)})
    for content, what in [
        (pickle.dumps(Payload(proof)), "pickle"),
        (zipped.getvalue(), "torch.save"),
        (whole[:-7], "truncated"),
        (whole[: len(whole) // 10], "truncated"),
        (b"", "empty"),
        (b"hello, this is a text", "not a safetensors file"),
    ]:
        path.write_bytes(content)
        for function in (read, lambda p: read_weights(p, torch.nn.Linear(1, 1))):
            with pytest.raises(ResurgeError, match=f"model.safetensors is not a safetensors file.*{what}|{what}"):
                function(path)
    assert not proof.exists()
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(ResurgeError, match="resurge did not write"):
        read(path)
    with pytest.raises(ResurgeError, match="does not exist"):
        read(tmp_path / "nothing")


# ---- the course of a run ----


def test_the_learning_rate_rises_in_a_line_and_falls_in_a_cosine() -> None:
    rates = [learning_rate(step, 1000, 0.1, 4e-3) for step in range(1001)]
    assert rates[0] == pytest.approx(1e-7)
    assert rates[50] == pytest.approx(2e-3, rel=1e-4)
    assert max(rates) == rates[100] == pytest.approx(4e-3)
    assert rates[550] == pytest.approx(2e-3, rel=1e-3)
    assert rates[1000] == pytest.approx(1e-7)
    assert learning_rate(0, 10, 0.0, 1.0) == 1.0


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 40), st.integers(1, 50), st.data())
def test_laps_from_any_step_cover_the_rest(epoch: int, accumulate: int, steps: int, every: int, data: Any) -> None:
    plan = Plan(epoch, accumulate, steps, min(every, steps))
    done = data.draw(st.integers(0, steps))
    position, laps = Progress(batches=done * accumulate), 0
    while length := Lap(_Counting(epoch), plan, position).batches:
        items = list(Lap(_Counting(epoch), plan, position))
        assert items == [divmod(position.batches + i, epoch) for i in range(length)]
        position.batches += length
        assert plan.validates(plan.step(position.batches))
        laps += 1
    assert plan.step(position.batches) == steps
    assert laps == plan.laps_left(done)


class _Counting:
    """A loader whose batches are their own positions."""

    def __init__(self, length: int) -> None:
        self.length, self.epoch, self.batch = length, 0, 0

    def __len__(self) -> int:
        return self.length

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.batch = state["epoch"], state["batch"]

    def __iter__(self) -> Any:
        for batch in range(self.batch, self.length):
            yield self.epoch, batch
        self.epoch, self.batch = self.epoch + 1, 0


def test_settings_out_of_range_are_refused() -> None:
    for change, words in [
        ({"train__batch_size": 0}, "batch_size must be at least 1"),
        ({"train__lr": -1.0}, "lr must be positive"),
        ({"train__precision": "16"}, "precision must be '32-true'"),
        ({"train__epochs": 0, "train__max_steps": 0}, "epochs must be at least 1"),
        ({"train__max_steps": -1}, "max_steps must be at least 0"),
        ({"train__val_steps": -5}, "val_steps must be at least 0"),
        ({"train__weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"train__clip": math.nan}, "clip must be at least 0, and is nan"),
        ({"train__lr": math.nan}, "lr must be positive"),
        ({"train__lr_factor": math.inf}, "lr_factor at least 0"),
    ]:
        with pytest.raises(ResurgeError, match=words):
            Plan.of(tiny(**change).train, 5)


def test_a_plan_counts_items_in_batches() -> None:
    plan = Plan.of(tiny(train__batch_size=4, train__max_steps=0, train__val_steps=0, train__epochs=3).train, 10)
    assert (plan.batches_an_epoch, plan.steps, plan.val_steps) == (3, 9, 3)


# ---- scores ----


def test_losses_and_metrics_are_what_they_are_called() -> None:
    torch.manual_seed(0)
    logits, classes = torch.randn(6, 4), torch.randint(4, (6,))
    of_class = InputSpec(kind="values", d_input=1, target="class", d_output=4)
    loss, sums = measure(logits, Batch(torch.zeros(6, 2, 1), classes, None), of_class)
    assert torch.equal(loss, cross_entropy(logits, classes))
    assert metrics(sums, of_class)["accuracy"] == pytest.approx((logits.argmax(1) == classes).double().mean().item())

    of_value = InputSpec(kind="values", d_input=1, target="value", d_output=2)
    wanted = torch.randn(6, 2)
    loss, sums = measure(logits[:, :2], Batch(torch.zeros(6, 2, 1), wanted, None), of_value)
    assert metrics(sums, of_value)["mse"] == pytest.approx((logits[:, :2] - wanted).square().mean().item())

    of_text = InputSpec(kind="tokens", d_input=4, target="next_token", d_output=4, encoding="bytes")
    logits, tokens, lengths = torch.randn(2, 5, 4), torch.randint(4, (2, 5)), torch.tensor([5, 2])
    loss, sums = measure(logits, Batch(tokens, tokens, lengths), of_text)
    real = torch.cat([logits[0], logits[1, :2]]), torch.cat([tokens[0], tokens[1, :2]])
    nats = cross_entropy(*real).item()
    assert loss.item() == pytest.approx(nats)
    assert metrics(sums, of_text)["bits_per_byte"] == pytest.approx(nats / np.log(2))


def test_better_is_a_better_figure_or_the_same_at_a_smaller_loss() -> None:
    of_class = InputSpec(kind="values", d_input=1, target="class", d_output=4)
    of_value = InputSpec(kind="values", d_input=1, target="value", d_output=1)
    good, same, sure = [{"accuracy": a, "loss": b} for a, b in [(0.9, 1.0), (0.9, 1.0), (0.9, 0.5)]]
    assert better(of_class, good, {})
    assert better(of_class, {"accuracy": 0.91, "loss": 9.0}, good)
    assert better(of_class, sure, good)
    assert not better(of_class, same, good)
    assert not better(of_class, {"accuracy": 0.89, "loss": 0.0}, good)
    assert better(of_value, {"mse": 1.0, "loss": 1.0}, {"mse": 2.0, "loss": 2.0})
    assert not better(of_value, {"mse": float("nan"), "loss": float("nan")}, {"mse": 2.0, "loss": 2.0})


def test_evaluation_of_text_carries_the_state_through_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(np.random.default_rng(0).integers(97, 120, 6000, dtype=np.uint8)))
    splits = Text(str(path), length=16, val_fraction=0.2, test_fraction=0.2).load()
    model = build_model(ModelConfig(LRU(d_state=8), d_model=8, depth=2, norm="rms"), splits.spec).eval()
    assert isinstance(model, LanguageModel)
    windows = len(splits.test)
    whole = splits.test.batch(torch.arange(windows))
    with torch.no_grad():
        outputs, _ = model(whole.inputs.reshape(1, -1))
    nats = cross_entropy(outputs[0], whole.targets.flatten()).item()
    found = evaluate_split(model, splits.test, splits.spec, 1, torch.device("cpu"))
    assert found["loss"] == pytest.approx(nats, rel=1e-5)
    for rows in (3, 7, windows - 1, windows + 5):
        seen, state = [], None
        for batch in InOrder(splits.test, rows, carry=True):
            seen.append(batch.inputs)
            _, state = advance(model, batch, state, splits.spec)
        assert sorted(torch.cat(seen).tolist()) == sorted(whole.inputs.tolist())
        following = torch.cat([part[:1] for part in seen])  # the first row runs through consecutive windows
        assert torch.equal(following, whole.inputs[: len(following)])


def test_the_optimiser_has_the_layers_own_groups() -> None:
    from resurge.training.module import TrainingModule

    experiment = tiny(train__lr=1e-2, train__lr_factor=0.25, train__weight_decay=0.3, train__warmup=0.0)
    splits = experiment.data.load()
    model = build_model(experiment.model, splits.spec)
    plan = Plan.of(experiment.train, 10)
    module = TrainingModule(model, splits, experiment.train, plan, Progress(), 0)
    optimizer = module.configure_optimizers()
    module.on_before_optimizer_step(optimizer)
    recurrent, other = optimizer.param_groups
    assert recurrent["params"] == param_groups(model).recurrent
    assert (recurrent["lr"], recurrent["weight_decay"]) == (pytest.approx(2.5e-3), 0.0)
    assert (other["lr"], other["weight_decay"]) == (pytest.approx(1e-2), 0.3)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


# ---- runs ----


def test_a_run_leaves_what_it_says(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = {"config.json", "initial.safetensors", "model.safetensors", "checkpoint.safetensors", "metrics.csv"}
    assert {path.name for path in run.iterdir()} == files | {"results.json", "tensorboard"}
    results = json.loads((run / "results.json").read_text())
    assert results["steps"] == 12
    assert results["best_step"] in (6, 12)
    header, *lines = (run / "metrics.csv").read_text().splitlines()
    assert header.split(",") == columns("accuracy")
    assert header.endswith(",".join(TIME_COLUMNS))
    assert [line.split(",")[0] for line in lines] == ["4", "6", "8", "12", "12"]
    loaded = load_run(run)
    assert not loaded.model.training
    assert evaluate(loaded, device="cpu") == results["test"]
    assert evaluate(loaded, "val", device="cpu") == results["val"]
    before = load_run(run, "initial.safetensors").model.state_dict()
    assert any(not torch.equal(before[name], tensor) for name, tensor in loaded.model.state_dict().items())
    assert capfd.readouterr() == ("", "")


def test_a_run_says_what_it_does_on_stderr_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fit("lru/digits", tiny(), tmp_path / "run", device="cpu")
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split()[:2] for line in lines] == [["step", "6/12"], ["step", "12/12"], ["test", "loss"]], err
    assert "val_accuracy" in lines[0]
    assert "tokens/s" in lines[0]


def test_a_folder_in_use_and_other_settings_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ResurgeError, match="exists already: use --resume to continue it, or another --out"):
        fit("lru/digits", tiny(), run)
    with pytest.raises(ResurgeError, match=r"model\.d_model = 8, and now it is 16"):
        fit("lru/digits", tiny(model__d_model=16), run, resume=True)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ResurgeError, match="is not a run, and cannot be resumed"):
        fit("lru/digits", tiny(), tmp_path, resume=True)
    with pytest.raises(ResurgeError, match="a folder is needed"):
        fit("lru/digits", tiny(), tmp_path / "note.txt")
    with pytest.raises(ResurgeError, match=r"is not a run: it has no config\.json"):
        load_run(tmp_path)
    with pytest.raises(ResurgeError, match=r"unknown split 'tset'\. Did you mean 'test'\?"):
        evaluate(load_run(run), "tset")
    with pytest.raises(ResurgeError, match="unknown device 'gpu'"):
        fit("lru/digits", tiny(), tmp_path / "new", device="gpu")


def test_a_finished_run_gives_its_results_again(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    found = fit("lru/digits", tiny(), run, resume=True)
    assert found == json.loads(before[run / "results.json"])["test"]
    assert before == {path: path.read_bytes() for path in run.iterdir() if path.is_file()}


def test_weights_of_another_architecture_are_refused(run: Path, tmp_path: Path) -> None:
    spec = load_run(run).spec
    for model, words in [
        (
            ModelConfig(LRU(d_state=64), d_model=16, depth=1),
            r"'encoder\.bias' has shape \(8,\), and \(16,\) was expected",
        ),
        (ModelConfig(LRU(d_state=64), d_model=8, depth=2), r"it has no 'stack\.blocks\.1"),
        (ModelConfig(options_type("gru")(), d_model=8, depth=1), r"it has no 'stack\.blocks\.0\.mixer\.weight_ih_l0'"),
    ]:
        with pytest.raises(ResurgeError, match=words):
            read_weights(run / "model.safetensors", build_model(model, spec))


def test_a_checkpoint_of_another_run_is_refused(run: Path, tmp_path: Path) -> None:
    for damage, words in [
        (lambda kept: {"progress": kept["progress"]}, "no checkpoint of a run"),
        (lambda kept: {**kept, "state_dict": {"model.x": torch.zeros(1)}}, "holds another architecture: it has no"),
    ]:
        out = shutil.copytree(run, tmp_path / words[:2])
        (out / "results.json").unlink()
        write(out / "checkpoint.safetensors", damage(read(run / "checkpoint.safetensors")))
        with pytest.raises(ResurgeError, match=words):
            fit("lru/digits", tiny(), out, resume=True, progress=False, device="cpu")


def test_a_checkpoint_with_a_damaged_header_is_named(tmp_path: Path) -> None:
    for tree in ("[", '["tensor", "gone"]', '["dict"]'):
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", {"resurge": tree})
        with pytest.raises(ResurgeError, match="is damaged"):
            read(tmp_path / "x.safetensors")


def test_lines_of_metrics_that_are_none_are_dropped(tmp_path: Path) -> None:
    names = columns("accuracy")
    line = ",".join(["4", *[""] * (len(names) - 1)])
    later = line.replace("4", "5", 1)
    (tmp_path / "metrics.csv").write_bytes(
        f"{','.join(names)}\n{line}\n".encode() + b"\0\xff\n\n" + later.encode() + b"\n4,"
    )
    CSVLog(tmp_path / "metrics.csv", names, 4, 0).close()
    assert (tmp_path / "metrics.csv").read_text() == f"{','.join(names)}\n{line}\n"


def test_a_config_of_other_types_is_refused(run: Path, tmp_path: Path) -> None:
    for key in ("experiment", "spec", "recipe"):
        config = json.loads((run / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, key: 3}))
        with pytest.raises(ResurgeError, match=f"'{key}' must be there as"):
            load_run(tmp_path)


def test_data_with_another_mean_are_not_those_of_the_training(run: Path) -> None:
    found = load_run(run)
    other = dataclasses.replace(found, spec=dataclasses.replace(found.spec, mean=[found.spec.mean[0] + 1e-3]))
    with pytest.raises(ResurgeError, match=r"data of .* have changed .* 'mean' was"):
        evaluate(other)


def test_a_pickle_in_the_place_of_weights_is_never_opened(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    with pytest.raises(ResurgeError, match="no weights were kept yet"):
        load_run(tmp_path)
    torch.save({"x": Payload(tmp_path / "proof")}, tmp_path / "model.safetensors")
    with pytest.raises(ResurgeError, match="may hold a pickle, which is never read"):
        load_run(tmp_path)
    assert not (tmp_path / "proof").exists()


def test_early_stopping_keeps_the_first_of_equals(tmp_path: Path) -> None:
    experiment = tiny(train__lr=1e-30, train__max_steps=30, train__val_steps=2, train__patience=3, train__warmup=0.0)
    experiment = recipes.override(experiment, train__weight_decay=0.0, model__norm="layer")
    fit("lru/digits", experiment, tmp_path / "run", progress=False, device="cpu")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["best_step"], results["steps"]) == (2, 8)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ResurgeError, match=r"the loss is (nan|inf) at step \d+: lower train.lr"):
        fit("lru/digits", tiny(train__lr=1e38, train__clip=0.0), tmp_path / "run", progress=False, device="cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"train__precision": "bf16-mixed"},
        {"model__bidirectional": True, "model__norm": "rms", "model__pool": "last", "model__prenorm": False},
    ],
)
def test_other_precisions_and_models_train(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = fit("lru/digits", tiny(**changes), tmp_path / "run", progress=False, device="cpu")
    assert found == evaluate(load_run(tmp_path / "run"), device="cpu")


def test_a_regressor_learns_from_ragged_series(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(3, 9, 120)
    x = random.normal(size=(lengths.sum(), 2)).astype(np.float32)
    offsets = np.concatenate([[0], lengths.cumsum()])
    y = np.array([x[a:b, 0].mean() for a, b in pairwise(offsets)])
    np.savez(tmp_path / "x.npz", x=x, offsets=offsets, y=y)
    experiment = tiny(train__max_steps=60, train__val_steps=30, train__lr=1e-2, model__dropout=0.0)
    experiment.data = Series(str(tmp_path / "x.npz"), target="value")
    found = fit("lru/series", experiment, tmp_path / "run", progress=False, device="cpu")
    assert set(found) == {"loss", "mse"}
    assert found["mse"] < 0.5 * y.var()


def test_a_language_model_learns_and_a_batch_norm_in_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("abcdefgh" * 400)
    experiment = tiny(train__max_steps=60, train__val_steps=30, train__lr=2e-2, model__norm="rms", model__dropout=0.0)
    experiment.data = Text(str(path), length=32)
    found = fit("lru/text", experiment, tmp_path / "run", progress=False, device="cpu")
    assert found["bits_per_byte"] < 1
    with pytest.raises(ResurgeError, match="must not look across time"):
        build_model(ModelConfig(LRU(), norm="batch"), load_run(tmp_path / "run").spec)


# ---- stopping and going on ----


def test_a_run_killed_anywhere_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    assert killing.run_killed(tmp_path / "run", kills=3, seed=1) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["training", "validation"])
def test_a_signal_stops_after_the_step_and_the_run_goes_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, moment: str
) -> None:
    iterate = Lap.__iter__ if moment == "training" else InOrder.__iter__
    owner = Lap if moment == "training" else InOrder

    def interrupted(self: Any) -> Any:
        for i, batch in enumerate(iterate(self)):  # type: ignore[arg-type]
            if i == 1:
                os.kill(os.getpid(), number)
            yield batch

    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(owner, "__iter__", interrupted)
        with pytest.raises(Interrupted, match=r"stopped at step . of 12; continue with .* --resume"):
            fit("lru/digits", tiny(train__eval_batch_size=32), tmp_path / "run", progress=False, device="cpu")
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    progress = read(tmp_path / "run" / "checkpoint.safetensors")["progress"]
    assert (progress["batches"], progress["validated"]) == ((2, 0) if moment == "training" else (6, 0))
    fit("lru/digits", tiny(train__eval_batch_size=32), tmp_path / "run", resume=True, progress=False, device="cpu")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ResurgeError, match=r"cannot write .*No space left on device"):
            fit("lru/digits", tiny(train__checkpoint_steps=1), out, progress=False, device="cpu")
    assert 0 < read(out / "checkpoint.safetensors")["progress"]["batches"] < 12
    assert not list(out.glob(".*.tmp"))
    fit("lru/digits", tiny(train__checkpoint_steps=1), out, resume=True, progress=False, device="cpu")
    assert (out / "results.json").exists()


def test_freed_memory_is_given_back_where_batches_differ() -> None:
    code = """
from resurge.memory import FreedMemory, reuse_freed_memory
import torch
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
reuse_freed_memory()
blocks = [torch.ones(1 << 18) for _ in range(256)]  # of one MB
kept, before = blocks[::2], resident()
del blocks
freed = FreedMemory()
told = [freed.after(size) for size in [5] * 100 + list(range(FreedMemory.EVERY - 1))]
print(told.index(True), before - resident())
"""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("only glibc can be asked to give memory back")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    at, megabytes = map(int, done.stdout.split())
    assert at == 100 + FreedMemory.EVERY - 2  # the first size of all is a change too
    assert megabytes >= 100
