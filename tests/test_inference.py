"""Streaming, sampling and predicting: whatever the pieces, the answers are those of the whole."""

import json
import math
import os
import subprocess
import sys
import threading
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from resurge import Bidirectional, ResurgeError, layers
from resurge import state as states
from resurge.data import InputSpec, Series
from resurge.inference import Stream, decode, generate, predict
from resurge.inference import generate as generate_function
from resurge.inference.generate import _draw
from resurge.models import LanguageModel, SequenceClassifier, Stack
from resurge.nn import LastPool, MeanPool

D = 8
VALUES = InputSpec("values", 2, "class", 3, mean=[1.0, -2.0], std=[2.0, 0.5], classes=["ash", "elm", "oak"])
BYTES = InputSpec("tokens", 256, "next_token", 256, encoding="bytes")


def classifier(layer: str = "lru", pool: Any = None, channels: int = 2) -> SequenceClassifier:
    torch.manual_seed(1)
    stack = Stack(lambda: layers.create(layer, D), 2)
    return SequenceClassifier(nn.Linear(channels, D), stack, 3, pool=pool).eval().requires_grad_(False)


def language_model(vocabulary: int = 256) -> LanguageModel:
    torch.manual_seed(1)
    model = LanguageModel(vocabulary, Stack(lambda: layers.create("lru", D), 2, norm="layer")).eval()
    nn.init.normal_(model.head.weight, std=1.0)  # far from uniform, so that choices differ
    return model.requires_grad_(False)


def close(actual: Tensor, expected: Tensor) -> bool:
    return actual.shape == expected.shape and bool(torch.allclose(actual, expected, rtol=1e-4, atol=1e-5))


def cut(x: Tensor, sizes: list[int]) -> list[Tensor]:
    pieces = []
    for size in sizes:
        pieces.append(x[:, :size])
        x = x[:, size:]
    return [piece for piece in [*pieces, x] if piece.shape[1]]


@pytest.mark.parametrize("layer", layers.names())
@given(sizes=st.lists(st.integers(1, 7), max_size=6), each=st.lists(st.booleans(), min_size=7, max_size=7))
def test_pieces_of_any_size_answer_as_the_whole(layer: str, sizes: list[int], each: list[bool]) -> None:
    model, x = classifier(layer), torch.randn(2, 20, 2)
    stream = Stream(model, batch_size=2)
    done = 0
    for piece, every in zip(cut(x, sizes), each, strict=False):
        outputs = stream.push_each(piece) if every else stream.push(piece)[:, None]
        done += piece.shape[1]
        first = done - outputs.shape[1] + 1
        for i in range(outputs.shape[1]):
            assert close(outputs[:, i], model(x[:, : first + i])[0])


@pytest.mark.parametrize("pool", [MeanPool(), LastPool()])
def test_the_answers_after_each_step_are_those_of_single_steps(pool: Any) -> None:
    model, x = classifier(pool=pool), torch.randn(1, 12, 2)
    one, many = Stream(model), Stream(model)
    singly = torch.stack([one.push(x[0, t]) for t in range(12)], 1)
    assert close(many.push_each(x), singly)
    for (name, a), (_, b) in zip(states.named_tensors(one.state), states.named_tensors(many.state), strict=True):
        assert close(a, b), name


def test_a_language_model_streams_logits_of_every_token() -> None:
    model, tokens = language_model(), torch.randint(256, (1, 9))
    stream = Stream(model)
    whole = model(tokens)[0]
    assert close(stream.push(tokens[:, :4]), whole[:, :4])
    assert close(stream.push(int(tokens[0, 4])), whole[:, 4])
    assert close(stream.push_each(tokens[:, 5:]), whole[:, 5:])


def test_reset_forgets_all_rows_or_some() -> None:
    model, x = classifier(), torch.randn(2, 6, 2)
    stream = Stream(model, batch_size=2)
    stream.push(x)
    stream.reset(torch.tensor([False, True]))
    outputs = stream.push(x)
    assert close(outputs[0], model(torch.cat([x, x], 1))[0][0])
    assert close(outputs[1], model(x)[0][1])
    stream.reset()
    assert close(stream.push(x), model(x)[0])


def test_a_stream_goes_on_in_another_process_from_its_saved_state(tmp_path: Path) -> None:
    model, x = classifier(), torch.randn(1, 8, 2)
    first = Stream(model)
    first.push(x[:, :5])
    states.save(first.state, tmp_path / "state.npz")
    second = Stream(model)
    second.state = states.load(tmp_path / "state.npz", like=second.state)
    assert close(second.push(x[:, 5:]), model(x)[0])


def test_a_spec_takes_raw_values() -> None:
    model, x = classifier(), torch.randn(1, 5, 2)
    raw = x * torch.tensor(VALUES.std) + torch.tensor(VALUES.mean)
    assert close(Stream(model, spec=VALUES).push(raw.numpy()), model(x)[0])


def test_a_large_mean_costs_a_stream_no_precision() -> None:
    spec = InputSpec("values", 2, "class", 3, mean=[1.7e9, 0.0], std=[1.0, 1.0], classes=["ash", "elm", "oak"])
    model, x = classifier(), torch.randn(1, 5, 2).double()
    raw = x + torch.tensor(spec.mean, dtype=torch.float64)
    for piece in (raw, raw.numpy(), raw.tolist()):
        assert close(Stream(model, spec=spec).push(piece), model(x.float())[0])
    assert close(Stream(model, spec=spec).push_each(raw.tolist())[:, -1], model(x.float())[0])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 0, 2), r"T >= 1, and has \(1, 0, 2\)"),
        (torch.zeros(2, 4, 2), r"shape \(1, d\) or \(1, T, d\)"),
        (torch.zeros(3), "2 values, and has 3"),
        ("abc", "must be numbers, and is str"),
        ([[1.0], [1.0, 2.0]], "must be numbers, and is list"),
    ],
)
def test_a_wrong_step_is_refused(x: Any, message: str) -> None:
    stream = Stream(classifier())
    stream.push([1.0, 2.0])
    before = stream.state
    with pytest.raises(ResurgeError, match=message):
        stream.push(x)
    assert stream.state is before


def test_a_wrong_model_is_refused() -> None:
    two_ways = Stack(lambda: Bidirectional(layers.LRU(D), layers.LRU(D)), 1)
    with pytest.raises(ResurgeError, match="needs the whole sequence"):
        Stream(SequenceClassifier(nn.Linear(1, D), two_ways, 2))
    with pytest.raises(ResurgeError, match="not Linear"):
        Stream(nn.Linear(1, 1))
    with pytest.raises(ResurgeError, match="integer tokens"):
        Stream(language_model()).push(torch.zeros(1, 3))
    with pytest.raises(ResurgeError, match="at least 1"):
        Stream(classifier(), batch_size=0)


def test_the_greedy_continuation_is_that_of_the_whole_each_time() -> None:
    model, tokens = language_model(), [3, 1, 4]
    made = list(generate(model, tokens, 12, temperature=0))
    for token in made:
        assert token == int(model(torch.tensor([tokens]))[0][0, -1].argmax())
        tokens.append(token)
    assert made == list(generate(model, [3, 1, 4], 12, top_k=1))


def test_seeds_make_the_draws() -> None:
    model = language_model()
    first = list(generate(model, [7], 30, seed=5))
    assert first == list(generate(model, [7], 30, seed=5))
    assert first == list(islice(generate(model, [7], 0, seed=5), 30))
    assert first != list(generate(model, [7], 30, seed=6))


def test_a_long_prompt_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = torch.randint(256, (23,)).tolist()
    whole = list(generate(language_model(), prompt, 8))
    monkeypatch.setattr(sys.modules[generate_function.__module__], "_PREFILL", 5)
    assert list(generate(language_model(), prompt, 8)) == whole


def test_draws_follow_temperature_and_top_k() -> None:
    logits, draws = torch.tensor([2.0, 1.0, 0.0, -1.0]), torch.Generator().manual_seed(0)
    for temperature, top_k in ((1.0, 0), (0.5, 0), (2.0, 3)):
        counts = torch.bincount(
            torch.tensor([_draw(logits, temperature, top_k, draws) for _ in range(4000)]), minlength=4
        )
        expected = torch.softmax(logits / temperature, -1)
        if top_k:
            expected[top_k:] = 0
        assert torch.allclose(counts / 4000, expected / expected.sum(), atol=0.03)  # four standard errors


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "at least one token"),
        ([256], {}, r"\[0, 256\)"),
        ([-1], {}, r"\[0, 256\)"),
        ([1], {"temperature": -1.0}, "0 or more"),
        ([1], {"temperature": math.nan}, "0 or more"),
        ([1], {"top_k": -1}, "0 or more"),
        ([1], {"n": -1}, "0 or more"),
        ([1], {"seed": 1 << 70}, "seed must lie between 0 and"),
    ],
)
def test_generation_is_refused_before_it_starts(prompt: list[int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ResurgeError, match=message):
        generate(language_model(), prompt, **options)


@given(text=st.text(), offset=st.sampled_from([0, 1]))
def test_text_comes_character_by_character(text: str, offset: int) -> None:
    pieces = list(decode([byte + offset for byte in text.encode()], offset))
    assert "".join(pieces) == text
    assert all(len(piece) == 1 for piece in pieces)


@given(data=st.binary())
def test_what_is_no_text_becomes_replacement_characters(data: bytes) -> None:
    assert "".join(decode(data)) == data.decode(errors="replace")


def test_padding_is_no_text() -> None:
    assert "".join(decode([0, ord("a") + 1, 300], 1)) == "a"


def feed(chunks: list[bytes]) -> int:
    """A file descriptor that gives `chunks`, and ends."""
    source, sink = os.pipe()

    def write() -> None:
        with os.fdopen(sink, "wb", buffering=0) as file:
            for chunk in chunks:
                file.write(chunk)

    threading.Thread(target=write).start()
    return source


@given(chunks=st.lists(st.binary(max_size=9).map(lambda b: b.replace(b"a", b"\n")), max_size=9))
def test_lines_come_whole_whatever_the_pieces(chunks: list[bytes]) -> None:
    source = feed(chunks)
    whole = b"".join(chunks)
    *ended, rest = whole.split(b"\n")
    expected = [line + b"\n" for line in ended] + ([rest] if rest else [])
    assert [line for some in predict.lines(source) for line in some] == expected
    os.close(source)


def test_a_line_without_end_is_cut_or_refused() -> None:
    chunks = [b"x" * 4096] * 20
    cut_lines = [line for some in predict.lines(feed(chunks), cut=True) for line in some]
    assert b"".join(cut_lines) == b"".join(chunks)
    assert max(map(len, cut_lines)) < 80000
    source, sink = os.pipe()
    threading.Thread(target=lambda: [os.write(sink, chunk) for chunk in chunks] and os.close(sink)).start()
    with pytest.raises(ResurgeError, match="line of more than 65536 bytes"):
        list(predict.lines(source))
    while os.read(source, 65536):
        pass


def run_of(model: nn.Module, spec: InputSpec, task: Any = None) -> Any:
    return SimpleNamespace(model=model, spec=spec, experiment=SimpleNamespace(data=task))


def test_a_stream_of_lines_answers_every_step() -> None:
    model = classifier()
    x = np.random.default_rng(0).normal(size=(150, 2)).astype(np.float32)
    lines = [f"{a}, {b}\n" for a, b in x]
    lines.insert(100, "reset\n")
    answers = [
        a for some in predict.answer_stream(run_of(model, VALUES), feed(["".join(lines).encode()])) for a in some
    ]
    assert len(answers) == 150
    for stop in (1, 64, 65, 100, 101, 150):
        start = 100 if stop > 100 else 0
        scores = model(VALUES.inputs(torch.from_numpy(x[None, start:stop])))[0][0].softmax(-1)
        assert answers[stop - 1]["class"] == VALUES.classes[int(scores.argmax())]
        assert answers[stop - 1]["probability"] == pytest.approx(float(scores.max()), abs=1e-4)


def test_an_answer_comes_before_the_next_line() -> None:
    source, sink = os.pipe()
    answers = predict.answer_stream(run_of(classifier(), VALUES), source)
    for line in (b"1 2\n", b"3 4\n"):
        os.write(sink, line)
        assert len(next(answers)) == 1
    os.write(sink, b"1 2\n1 x\n")
    assert len(next(answers)) == 1, "the line before a bad one has its answer"
    with pytest.raises(ResurgeError, match="line 4: 'x' is not a number"):
        list(answers)


def test_a_file_of_series_is_answered_as_each_alone(tmp_path: Path) -> None:
    rows = ["key,a,b,kind"]
    series = {name: np.random.default_rng(i).normal(size=(3 + i, 2)) for i, name in enumerate(("x", "y", "z"))}
    rows += [f"{name},{float(a)!r},{float(b)!r},oak" for name, values in series.items() for a, b in values]
    (tmp_path / "new.csv").write_text("\n".join(rows))
    model = classifier()
    run = run_of(model, VALUES, Series(label="kind", id="key"))
    answers = [answer for some in predict.answer_file(run, tmp_path / "new.csv") for answer in some]
    assert [answer["series"] for answer in answers] == ["x", "y", "z"]
    for answer, values in zip(answers, series.values(), strict=True):
        scores = model(VALUES.inputs(torch.from_numpy(values)[None]))[0][0].softmax(-1)
        assert answer["probability"] == pytest.approx(float(scores.max()), abs=1e-5)
    run.spec = InputSpec("values", 5, "class", 3)
    with pytest.raises(ResurgeError, match="has 2 channels, and the model takes 5"):
        list(predict.answer_file(run, tmp_path / "new.csv"))


def test_values_are_answered_as_values() -> None:
    spec = InputSpec("values", 1, "value", 2, mean=[0.0], std=[1.0])
    assert predict.answer(spec, torch.tensor([0.5, 2.0])) == {"value": [0.5, 2.0]}
    assert predict.answer(spec, torch.tensor([0.5])) == {"value": 0.5}


@given(sizes=st.lists(st.integers(1, 9), max_size=8))
def test_bits_per_byte_do_not_depend_on_the_pieces(sizes: list[int]) -> None:
    model, text = language_model(), b"for every x in X:\n    yield x\n"
    tokens = torch.tensor([list(text)])
    scores = torch.log_softmax(model(tokens)[0][0, :-1].double(), -1)
    expected = -float(scores.gather(1, tokens[0, 1:, None]).mean()) / math.log(2)
    pieces = [bytes(piece[0].tolist()) for piece in cut(tokens, sizes)]
    answers = [answer for some in predict._texts(run_of(model, BYTES), [pieces]) for answer in some]
    assert answers[-1]["bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    assert sum(answer["bits"] for answer in answers) == pytest.approx(expected * (len(text) - 1), rel=1e-5)


def test_a_text_file_is_answered_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"some text\n" * 1000)
    ((answer,),) = predict.answer_file(run_of(language_model(), BYTES), tmp_path / "a.txt")
    assert answer.keys() == {"bits_per_byte"}
    for name, content, message in (
        ("empty", b"", "is empty"),
        ("binary", b"ab\0", "NUL at byte 2"),
        ("latin", b"caf\xe9", "not UTF-8.*byte 3"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ResurgeError, match=message):
            list(predict.answer_file(run_of(language_model(), BYTES), tmp_path / name))


def test_every_line_of_listops_is_an_expression_of_its_own() -> None:
    torch.manual_seed(1)
    model = SequenceClassifier(nn.Embedding(16, D), Stack(lambda: layers.LRU(D), 1), 10).eval()
    spec = InputSpec("tokens", 16, "class", 10, classes=[str(i) for i in range(10)], encoding="listops")
    text = b"[MAX 1 2 ]\n[SM 7 8 [MIN 1 2 ] ]\n\n[MAX 1 2 ]"
    answers = [answer for some in predict.answer_stream(run_of(model, spec), feed([text])) for answer in some]
    assert len(answers) == 3
    assert answers[0] == answers[2] != answers[1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_memory_does_not_grow_with_the_stream() -> None:
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "benchmarks", "stream_memory", "--steps", "20000"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["grown_bytes"] < 1 << 20
