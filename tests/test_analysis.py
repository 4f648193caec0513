"""Spectra against their definitions, and reports: whole, alone on their page, and true."""

import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resurge import ResurgeError, layers, recipes
from resurge.analysis import eigenvalues, evidence, figures, report, time_scales
from resurge.analysis.report import _characters, command
from resurge.cli.runs import Fit
from resurge.data import Digits, Series, Text
from resurge.layers import options_type
from resurge.recipes import Experiment, ModelConfig, TrainConfig, to_dict
from resurge.training import Run, build_model, fit, load_run
from resurge.training.checkpoint import write_weights
from resurge.training.runs import write_config

VOID = {"meta", "br", "hr", "img", "link"}


class Checker(HTMLParser):
    """Every element closed in order; notes what would be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [str(v) for k, v in attrs if k in ("src", "href", "xlink:href") and not str(v).startswith("#")]
        if tag in ("script", "link", "iframe"):
            self.loaded.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def text_of(page: str) -> str:
    """The page's text, once it is known to be well formed and to need nothing but itself."""
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert checker.loaded == []
    assert "url(" not in page.replace("url(#", "")
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)
    return " ".join("".join(checker.text).split())


def small(layer: str = "lru", **model: Any) -> ModelConfig:
    return ModelConfig(options_type(layer)(), d_model=8, depth=2, **model)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("runs") / "digits"
    fit("lru/digits", Experiment(Digits(), small(), TrainConfig(epochs=1)), path, progress=False)
    return load_run(path)


def untrained(experiment: Experiment, path: Path) -> Run:
    splits = experiment.data.load()
    model = build_model(experiment.model, splits.spec)
    write_config(path, "lru/other", experiment, splits.spec)
    for name in ("initial.safetensors", "model.safetensors"):
        write_weights(path / name, model.state_dict())
    return load_run(path)


def test_time_scales_are_steps_to_one_in_e() -> None:
    scales = time_scales(torch.tensor([np.exp(-1 / 5), 0.5j, 1.0, 1.1]))
    assert scales[0] == pytest.approx(5, rel=1e-5)
    assert scales[1] == pytest.approx(1 / np.log(2), rel=1e-6)
    assert scales[2] == np.inf
    assert scales[3] < 0


def test_eigenvalues_are_those_of_the_recurrence() -> None:
    layer = layers.LRU(4, 6)
    (found,) = eigenvalues(layer).values()
    one = layer.initial_state(1)._replace(h=torch.stack([torch.ones(1, 6), torch.zeros(1, 6)], 1))
    after = layer.step(torch.zeros(1, 4), one)[1]
    assert torch.allclose(torch.complex(*after.h[0]).detach(), found, atol=1e-6)
    assert eigenvalues(layers.GRU(4)) == {}


def test_the_report_stands_alone_and_tells_what_was_learnt(digits: Run) -> None:
    page = report(digits)
    text = text_of(page)
    for heading in ("Learning", "Confusions", "Eigenvalues", "Memory", "Settings", "Make it again"):
        assert f"<h2>{heading}</h2>" in page
    accuracy = evidence.confusion(digits, digits.experiment.data.load().test)
    assert f"{100 * accuracy.trace() / accuracy.sum():.2f} %" in text
    assert "2303.06349" in text
    assert page.count("<svg") == 4
    assert page == report(digits)  # no dates, no random names


def test_confusions_are_counted(digits: Run) -> None:
    test = digits.experiment.data.load().test
    counts = evidence.confusion(digits, test)
    batch = test.batch(torch.arange(len(test)))
    said = digits.model(batch.inputs)[0].argmax(-1)
    for true in range(10):
        for told in range(10):
            assert counts[true, told] == int(((batch.targets == true) & (said == told)).sum())


def test_the_command_makes_the_same_run_again(digits: Run) -> None:
    words = command(digits).split()
    assert words[:3] == ["resurge", "fit", "lru/digits"]
    parsed = Fit.parse(words[2:])
    assert parsed.out == digits.path
    assert to_dict(parsed.experiment) == to_dict(digits.experiment)


def test_the_command_quotes_and_negates() -> None:
    experiment = recipes.override(recipes.get("lru/digits"), model__prenorm=False, train__lr=0.5, seed=3)
    line = command(Run(Path("a b"), "lru/digits", experiment, None, None))  # type: ignore[arg-type]
    assert line == "resurge fit lru/digits --no-prenorm --lr 0.5 --seed 3 --out 'a b'"


def test_a_language_model_shows_samples_and_what_surprised_it(tmp_path: Path) -> None:
    source = tmp_path / "text.txt"
    source.write_text("the <quick> brown fox & the lazy dóg\n" * 400)
    run = untrained(Experiment(Text(path=str(source), length=32), small(norm="layer")), tmp_path / "run")
    split = run.experiment.data.load().test
    tokens, bits = evidence.surprise(run, split, 50)
    batch = split.batch(torch.arange(2))
    whole = torch.cat([batch.inputs[0], batch.inputs[1]])[None]
    scores = torch.log_softmax(run.model(whole)[0][0], -1)
    expected = -scores.gather(1, batch.targets.flatten()[:, None])[:, 0] / np.log(2)
    assert tokens == batch.targets.flatten()[:50].tolist()
    assert bits == pytest.approx(expected[:50].tolist(), rel=1e-4)
    text = text_of(report(run))
    assert "<quick> brown fox & the" in text
    assert "Samples" in text
    assert "the training has not come to its end" in text


def test_characters_carry_the_bits_of_their_bytes() -> None:
    data = "aé€".encode() + b"\xff"
    assert _characters(data, [1.0] * 7) == [("a", 1.0), ("é", 2.0), ("€", 3.0), ("\ufffd", 1.0)]


def test_a_regressor_and_a_layer_without_eigenvalues(tmp_path: Path) -> None:
    rows = [f"{i % 7},{i % 3},{i % 5}" for i in range(60)]
    (tmp_path / "wide.csv").write_text("label,a,b\n" + "\n".join(rows))
    task = Series(path=str(tmp_path / "wide.csv"), target="value")
    run = untrained(Experiment(task, small("gru")), tmp_path / "run")
    text = text_of(report(run))
    assert "other: wide" in text
    assert "gru is not a fixed linear map" in text
    true, said = evidence.predictions(run, task.load().test)
    assert true.shape == said.shape == (12,)


def test_data_that_is_gone_leaves_out_what_needs_it(tmp_path: Path) -> None:
    source = tmp_path / "wide.csv"
    source.write_text("label,a,b\n" + "\n".join(f"{'xy'[i % 2]},{i},{i}" for i in range(40)))
    run = untrained(Experiment(Series(path=str(source)), small()), tmp_path / "run")
    source.unlink()
    text = text_of(report(run))
    assert "the data is not there" in text
    source.write_text("label,a,b\n" + "\n".join(f"{'xyz'[i % 3]},{i},{i}" for i in range(40)))
    assert "have changed since it was trained: 'd_output' was 2 and is 3" in text_of(report(run))
    assert "Confusions" not in text


def test_damaged_files_of_a_run_are_named(digits: Run, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(digits.path, path)
    run = load_run(path)
    (path / "metrics.csv").write_text("step,val_loss,val_accuracy\n1,x,y\n")
    with pytest.raises(ResurgeError, match=r"metrics\.csv is not a log"):
        report(run)
    (path / "metrics.csv").unlink()
    (path / "results.json").write_text("{")
    with pytest.raises(ResurgeError, match=r"results\.json is not JSON"):
        report(run)
    (path / "results.json").unlink()
    (path / "initial.safetensors").write_bytes(b"")
    with pytest.raises(ResurgeError, match="it is empty"):
        report(run)


def test_many_classes_and_many_layers_can_be_drawn() -> None:
    counts = np.eye(60, dtype=np.int64)
    assert "<svg" in figures.confusion(counts, [f"class {i}" for i in range(60)])
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList(torch.nn.Module() for _ in range(6))})
    for block in model["blocks"]:
        block.mixer = layers.LRU(4, 200, r_min=0.999, r_max=1.0)
    found = eigenvalues(model)
    svg = figures.disks({}, found)
    assert all(f"block {i}" in svg for i in range(1, 7))
    assert "100,000" in figures.memory({}, found, 100_000)
