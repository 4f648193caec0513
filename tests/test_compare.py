"""`resurge compare`: fair sizes, runs that are kept, layers that fail alone, and figures that can be believed."""

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from resurge import ResurgeError, layers, recipes
from resurge.analysis import compare as shown
from resurge.cli import main
from resurge.layers import GRU, MinGRU
from resurge.recipes import Experiment
from resurge.training import Interrupted, build_model, compare, fit
from resurge.training import comparison as module

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def tiny(**changes: Any) -> Experiment:
    """Twelve steps of the digits."""
    sizes = {"model__d_model": 8, "model__depth": 1, "model__layer__d_state": 8, "train__max_steps": 12}
    return recipes.override(recipes.get("lru/digits"), **{**sizes, "train__val_steps": 6, **changes})


def add_layer(monkeypatch: pytest.MonkeyPatch, cls: type[GRU]) -> str:
    name = cls.__name__.lower()
    monkeypatch.setitem(layers._LAYERS, name, cls)
    return name


def results(out: Path) -> dict[str, tuple[int, bytes]]:
    """When the results of each run were written, and what they are."""
    return {path.parent.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob("*/results.json")}


# ---- statistics ----


@pytest.mark.parametrize(("n", "t"), [(2, 12.7062), (3, 4.3027), (5, 2.7764), (10, 2.2622), (31, 2.0423)])
def test_the_interval_is_students(n: int, t: float) -> None:
    values = np.random.default_rng(n).standard_normal(n)
    found = shown.interval(values.tolist())
    assert found.mean == pytest.approx(values.mean())
    assert found.half == pytest.approx(t * values.std(ddof=1) / math.sqrt(n), rel=1e-4)


def test_the_interval_holds_the_mean_nineteen_times_in_twenty() -> None:
    draws = np.random.default_rng(0).normal(3.0, 2.0, (2000, 4))
    found = [shown.interval(row.tolist()) for row in draws]
    share = np.mean([abs(one.mean - 3.0) <= one.half for one in found])
    assert abs(share - 0.95) < 0.02  # four standard errors


def test_one_value_or_none_tells_no_interval() -> None:
    assert shown.interval([0.5])[0] == 0.5
    assert math.isnan(shown.interval([0.5]).half)
    assert math.isnan(shown.interval([]).mean)


def row(layer: str, values: list[float], **fields: Any) -> module.Row:
    made = module.Row(layer, own=False, d_model=8, parameters=10, seeds=list(range(len(values))), values=values)
    return replace(made, seconds=[1.0] * len(values), **fields)


@pytest.mark.parametrize(("metric", "order"), [("accuracy", "b c a d"), ("mse", "a c b d")])
def test_rows_are_ranked_by_what_is_better(metric: str, order: str) -> None:
    rows = [row("d", []), row("a", [0.1, 0.3]), row("b", [0.9, 0.7]), row("c", [0.4, 0.5])]
    found = module.Comparison("x/y", metric, "steps", 10, rows)
    assert [one.layer for one in shown.ranked(found)] == order.split()
    assert [one["layer"] for one in shown.summary(found)["rows"]] == order.split()


def test_the_table_tells_figures_sizes_and_failures() -> None:
    rows = [
        row("lru", [0.9, 0.8], own=True, steps=1200),
        row("gru", [0.5], remarks=["seed 1: the loss is nan at step 3"]),
        module.Row("bad", own=False, remarks=["a reason"]),
    ]
    lines = shown.table(module.Comparison("x/y", "accuracy", "params", 1234, rows)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:5]]
    assert cells[2] == ["lru (own)", "8", "10", "1,200", "1.0", "2", "85.0 % ± 63.5", ""]
    assert cells[3][5:] == ["1", "50.0 %", "seed 1: the loss is nan at step 3"]
    assert cells[4] == ["bad", "-", "-", "-", "-", "0", "-", "a reason"]
    assert len({len(line) for line in lines[:5]}) == 1  # it is aligned
    assert "1,234 parameters" in lines[6]
    one_seed = shown.table(module.Comparison("x/y", "mse", "steps", 1, [row("lru", [0.123456])]))
    assert "0.1235 |" in one_seed
    assert "one seed tells no interval" in one_seed
    many = shown.table(module.Comparison("x/y", "mse", "steps", 1, [row("lru", [0.0101, 0.0102, 0.0103])]))
    assert "0.01020 ± 0.00025" in many


# ---- sizes ----


@pytest.mark.parametrize("target", [1, 7, 100, 101, 1000, 54321])
@pytest.mark.parametrize("multiple", [1, 3, 8])
def test_the_nearest_width_is_the_one_that_a_search_of_all_finds(target: int, multiple: int) -> None:
    def size(width: int) -> int:
        if width % multiple:
            raise ResurgeError(f"a multiple of {multiple} is needed")
        return 5 + 3 * width + 2 * width**2

    best = min(range(multiple, 400, multiple), key=lambda width: abs(size(width) - target))
    assert module.nearest_width(size, target) == best


def test_a_layer_that_refuses_every_width_is_refused() -> None:
    def size(width: int) -> int:
        raise ResurgeError("never")

    with pytest.raises(ResurgeError, match="never"):
        module.nearest_width(size, 100)


def test_equal_parameters(tmp_path: Path) -> None:
    experiment = tiny(model__d_model=24, model__layer__d_state=24)
    spec = experiment.data.load().spec

    def size(name: str, width: int) -> int:
        options = experiment.model.layer if name == "lru" else layers.options_type(name)()
        model = build_model(replace(experiment.model, layer=options, d_model=width), spec)
        return sum(p.numel() for p in model.parameters())

    found = compare("lru/digits", experiment, ["lru", "mingru", "gru"], 1, tmp_path / "c", budget="params")
    lru, mingru, gru = found.rows
    assert found.parameters == lru.parameters == size("lru", 24)
    assert lru.d_model == 24
    for one in (mingru, gru):
        assert one.parameters == size(one.layer, one.d_model)
        near = [abs(size(one.layer, width) - found.parameters) for width in range(1, 64)]
        assert abs(one.parameters - found.parameters) == min(near)
    assert not mingru.remarks
    assert gru.remarks == [f"no width comes nearer to {found.parameters:,} parameters"]  # its state alone is larger


# ---- times ----


def test_equal_times_give_a_slower_layer_fewer_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def trial(experiment: Experiment, splits: Any, device: torch.device) -> float:
        asked.append(experiment.model.layer.NAME)
        return {"lru": 0.01, "gru": 0.03, "mingru": 0.005}[experiment.model.layer.NAME]

    monkeypatch.setattr(module, "seconds_a_step", trial)
    names, out = ["lru", "gru", "mingru"], tmp_path / "c"
    found = compare("lru/digits", tiny(), names, 1, out, budget="time", progress=False)
    assert [one.steps for one in found.rows] == [12, 4, 24]
    assert json.loads((out / "gru-0" / "results.json").read_text())["steps"] == 4
    assert asked == names
    assert compare("lru/digits", tiny(), names, 1, out, budget="time", progress=False) == found
    assert asked == names  # the trials were kept, so that the runs are the same ones
    assert shown.picture(found, out).startswith(b"\x89PNG")


def test_a_trial_takes_the_time_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sleepy(GRU):
        def scan(self, x: Tensor, state: Any, reset: Tensor | None) -> Any:
            time.sleep(0.05)
            return super().scan(x, state, reset)

    name = add_layer(monkeypatch, Sleepy)
    splits = tiny().data.load()
    fast, slow = (
        module.seconds_a_step(recipes.override(tiny(), model__layer=layers.options_type(of)()), splits, CPU)
        for of in ("gru", name)
    )
    assert slow >= 0.05
    assert fast < slow


# ---- runs ----


def test_a_row_is_what_fit_would_find(tmp_path: Path) -> None:
    found = compare("lru/digits", tiny(seed=3), ["lru", "mingru", "lru"], 2, tmp_path / "c", progress=False)
    assert [(one.layer, one.own, one.seeds) for one in found.rows] == [("lru", True, [3, 4]), ("mingru", False, [3, 4])]
    assert found.metric == "accuracy"
    alone = fit("lru/digits", tiny(seed=4), tmp_path / "lru", progress=False)
    other = recipes.override(tiny(seed=3), model__layer=layers.options_type("mingru")())
    assert found.rows[0].values[1] == alone["accuracy"]
    assert found.rows[1].values[0] == fit("x", other, tmp_path / "mingru", progress=False)["accuracy"]
    assert found.rows[0].seconds[0] > 0


def test_finished_runs_are_kept_and_more_can_be_added(tmp_path: Path) -> None:
    out = tmp_path / "c"
    first = compare("lru/digits", tiny(), ["lru"], 1, out, progress=False)
    before = results(out)
    more = compare("lru/digits", tiny(), ["mingru", "lru"], 2, out, progress=False)
    assert sorted(results(out)) == ["lru-0", "lru-1", "mingru-0", "mingru-1"]
    assert results(out)["lru-0"] == before["lru-0"]
    assert more.rows[1].values[0] == first.rows[0].values[0]
    with pytest.raises(ResurgeError, match=r"lru-0 was started with train.lr = 0.006, and now it is 0.001"):
        compare("lru/digits", tiny(train__lr=1e-3), ["lru"], 1, out, progress=False)


def test_an_interrupted_comparison_goes_on_to_the_same_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stopping(MinGRU):
        """Presses Ctrl-C at its eighth step in training."""

        left = 8

        def scan(self, x: Tensor, state: Any, reset: Tensor | None) -> Any:
            if self.training:
                Stopping.left -= 1
                if Stopping.left == 0:
                    import signal

                    signal.raise_signal(signal.SIGINT)
            return super().scan(x, state, reset)

    names = ["lru", add_layer(monkeypatch, Stopping)]
    with pytest.raises(Interrupted, match=r"stopping, seed 0: stopped at step 8 of 12; the same command goes on"):
        compare("lru/digits", tiny(), names, 2, tmp_path / "c", progress=False)
    before = results(tmp_path / "c")
    assert sorted(before) == ["lru-0", "lru-1"]
    found = compare("lru/digits", tiny(), names, 2, tmp_path / "c")
    told = capsys.readouterr().err
    assert "[2/4] lru, seed 1" in told
    assert told.count("was finished") == 2
    assert all(results(tmp_path / "c")[name] == result for name, result in before.items())
    whole = compare("lru/digits", tiny(), names, 2, tmp_path / "d", progress=False)
    assert [one.values for one in found.rows] == [one.values for one in whole.rows]


def test_layers_that_fail_fail_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(GRU):
        def __init__(self, d_model: int, d_state: int = 64) -> None:
            raise ResurgeError(f"d_model must be 7, and is {d_model}")

    class Diverging(GRU):
        def scan(self, x: Tensor, state: Any, reset: Tensor | None) -> Any:
            y, after = super().scan(x, state, reset)
            return (y * torch.nan if self.training else y), after

    class Greedy(GRU):
        def scan(self, x: Tensor, state: Any, reset: Tensor | None) -> Any:
            if self.training:
                raise torch.OutOfMemoryError("CUDA")
            return super().scan(x, state, reset)

    failing = [add_layer(monkeypatch, cls) for cls in (Refusing, Diverging, Greedy)]
    found = compare("lru/digits", tiny(), [*failing, "lru"], 2, tmp_path / "c", progress=False)
    refusing, diverging, greedy, lru = found.rows
    assert refusing.remarks == ["d_model must be 7, and is 8"]
    assert diverging.remarks == ["seed 0: the loss is nan at step 10", "seed 1: the loss is nan at step 10"]
    assert greedy.remarks == ["seed 0: out of memory", "seed 1: out of memory"]
    assert not refusing.values + diverging.values + greedy.values
    assert len(lru.values) == 2
    assert "d_model must be 7" in shown.table(found)
    assert shown.picture(found, tmp_path / "c").startswith(b"\x89PNG")


def test_a_layer_that_sees_the_future_is_no_language_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Seer(GRU):
        CAUSAL = False

    (tmp_path / "text.txt").write_text("abcdefgh " * 400)
    sizes = {"model__d_model": 8, "model__depth": 1, "train__max_steps": 2, "data__path": str(tmp_path / "text.txt")}
    experiment = recipes.override(recipes.get("lru/text"), **sizes, data__length=16)
    found = compare("lru/text", experiment, [add_layer(monkeypatch, Seer), "gru"], 1, tmp_path / "c", progress=False)
    assert found.rows[0].remarks == ["the layer would see the token that it has to predict"]
    assert found.metric == "bits_per_byte"
    assert found.rows[1].values


@pytest.mark.parametrize(("recipe", "metric"), [("lru/adding", "mse"), ("lru/copying", "accuracy")])
def test_synthetic_recipes_can_be_compared(recipe: str, metric: str, tmp_path: Path) -> None:
    sizes = {"data__length": 24, "data__n_train": 64, "data__n_val": 16, "data__n_test": 16}
    sizes |= {"model__d_model": 8, "model__depth": 1, "train__max_steps": 4}
    found = compare(
        recipe, recipes.override(recipes.get(recipe), **sizes), ["lru", "lstm"], 1, tmp_path, progress=False
    )
    assert found.metric == metric
    assert all(len(one.values) == 1 for one in found.rows)
    assert shown.picture(found, tmp_path).startswith(b"\x89PNG")


# ---- picture and command ----


def test_the_picture_shows_means_and_intervals(tmp_path: Path) -> None:
    from io import BytesIO

    from matplotlib.image import imread

    found = compare("lru/digits", tiny(), ["lru", "mingru"], 3, tmp_path / "c", progress=False)
    at, mean, half = shown._curve(found.rows[0], "accuracy", "step", tmp_path / "c")
    logs = [(tmp_path / "c" / run / "metrics.csv").read_text().splitlines() for run in found.rows[0].runs]
    column = logs[0][0].split(",").index("val_accuracy")
    last = [float([line.split(",")[column] for line in log[1:] if line.split(",")[column]][-1]) for log in logs]
    assert at.tolist() == [6, 12]
    assert (mean[-1], half[-1]) == pytest.approx(tuple(shown.interval(last)))
    drawn = shown.picture(found, tmp_path / "c")
    assert drawn == shown.picture(found, tmp_path / "c")
    pixels = (255 * imread(BytesIO(drawn))[..., :3]).round().astype(int)
    for color in shown._COLORS[:2]:
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == wanted).all(-1).sum() > 200
    (tmp_path / "c" / "lru-1" / "metrics.csv").write_text("nothing\n1\n")
    with pytest.raises(ResurgeError, match=r"metrics.csv is not a log of a run"):
        shown.picture(found, tmp_path / "c")


def test_the_command_makes_a_table_a_picture_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "lru/digits", "--layers", "LRU, mingru", "--seeds", "1", "--max-steps", "4", "--d-model", "8"]
    assert main(words) == 0
    captured = capsys.readouterr()
    out = Path("runs/compare-lru-digits-steps")
    assert "| lru (own)" in captured.out
    assert captured.out.startswith((out / "comparison.md").read_text())
    assert f"{out}/comparison.png" in captured.out
    assert "[2/2] mingru, seed 0: d_model 8" in captured.err
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "comparison.json").read_text())
    assert {one["layer"] for one in printed["rows"]} == {"lru", "mingru"}
    assert all(one["half_width"] is None and 0 <= one["mean"] <= 1 for one in printed["rows"])
    assert not list(out.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lru/digits"], "--layers is needed: names with commas between them. Known: "),
        (["lru/digit", "--layers", "lru"], "unknown recipe 'lru/digit'. Did you mean 'lru/digits'?"),
        (["lru/digits", "--layers", "lru,gruu"], "unknown layer 'gruu'. Did you mean 'gru'?"),
        (["lru/digits", "--layers", "lru", "--seeds", "0"], "seeds must be at least 1, and is 0"),
        (
            ["lru/digits", "--layers", "lru", "--budget", "tim"],
            "one of 'steps', 'params', 'time' expected, 'tim' given",
        ),
        (["--layers", "lru"], "compare needs a recipe as its first word"),
        (["lru/digits", "--layers", "lru", "--d-state", "-1"], "d_state must be at least 1, and is -1"),
        (["lru/digits", "--layers", "gru", "--max-steps", "-1"], "train.max_steps must be at least 0"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_runs(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not Path("runs").exists()


def test_it_is_an_error_if_no_layer_can_be_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Never(GRU):
        def __init__(self, d_model: int, d_state: int = 64) -> None:
            raise ResurgeError("not today")

    name = add_layer(monkeypatch, Never)
    assert main(["compare", "lru/digits", "--layers", name]) == 2
    assert f"none of the layers could be trained; {name}: not today" in capsys.readouterr().err
