"""The benchmarks: contestants compute the same function, figures are what they say, and the page's errors hold."""

import importlib
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import resurge
from benchmarks import claims, installed, lengths, ops, precision, results, tune
from benchmarks.catalogue import CHECKED, OPS
from benchmarks.contestants import Contestant, Peer, Problem, Sizes, eager, forced
from benchmarks.op import Draw, Op, as_peers_take_it, draw
from benchmarks.timing import in_new_process, interleaved
from resurge.ops import launch

SMALL = Sizes(2, 24, 16)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _unpoisoned() -> None:
    torch.use_deterministic_algorithms(False)  # other packages' operators do not all have deterministic forms


def given(op: Op) -> Problem:
    return draw(op, SMALL, CPU, torch.float32)


def tensors(found: Any) -> list[Tensor]:
    """What a contestant returned, from whichever package, as tensors."""
    many = found if isinstance(found, (tuple, list)) else [found]
    return [v if isinstance(v, Tensor) else torch.from_dlpack(v) for v in many]


def close(found: Tensor, expected: Tensor) -> None:
    if found.is_complex() and not expected.is_complex():
        expected = torch.complex(*expected.unbind(-2))
    assert found.shape == expected.shape
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4


def peers() -> list[Any]:
    return [
        pytest.param(op, who, peer, id=f"{name}-{who}".replace(" ", "_"))
        for name, op in OPS.items()
        for who, peer in op.peers.items()
        if peer.same and peer.device in ("", "cpu")
    ]


@pytest.mark.parametrize(("op", "who", "peer"), peers())
def test_peers_solve_the_same_problem(op: Op, who: str, peer: Peer) -> None:
    ours = eager(op.call, given(op))
    try:
        theirs = peer.make(as_peers_take_it(op, given(op)))
    except ImportError as error:
        pytest.skip(str(error))
    close(tensors(theirs.forward())[0].detach(), ours.forward())
    gradients = tensors(theirs.both())
    assert len(gradients) == len(ours.both())
    for found, expected in zip(gradients, ours.both(), strict=True):
        close(found.conj() if who.startswith("JAX") else found, expected)


@pytest.mark.parametrize("name", OPS)
def test_bytes_that_must_move_are_those_of_arguments_and_results(name: str) -> None:
    """Forward, each argument and the output once; and backward at least the gradients, in and out, besides."""
    op = OPS[name]
    problem = given(op)
    long = [v.numel() for v in problem.arguments if v.dim() > 2]  # those with an axis of time
    forward, both = op.moved(SMALL)
    assert forward == sum(long) + problem.gradient.numel()
    assert both >= 2 * forward
    assert both <= 2 * forward + sum(long) + problem.gradient.numel()


def plan(**changed: Any) -> ops.Plan:
    steps = (16, 64)
    settings: dict[str, Any] = {
        "device": CPU, "dtypes": (torch.float32,), "numbers": 1 << 12, "steps": steps, "peers_at": steps,
        "compiled_at": (), "compiled_backward": True, "rounds": 1, "patience": 1.0, "longest_call": 10.0,
        "until": math.inf,
    }  # fmt: skip
    return ops.Plan(**{**settings, **changed})


def fake(forward: Any) -> Op:
    """The scan, with one peer that does what `forward` does."""
    peer = Peer(lambda problem: Contestant(forward, forward))
    return OPS["diagonal"]._replace(peers={"peer": peer})


def test_rows_tell_time_share_and_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {ops.LIMIT: 2.0, ops.OURS: 4.0, "PyTorch loop": 8.0, "PyTorch parallel form": 6.0, "peer": 40.0}
    monkeypatch.setitem(OPS, "diagonal", fake(lambda: None))
    monkeypatch.setattr(ops, "interleaved", lambda calls, *_, **__: {name: seconds[name] for name in calls})
    measurement = ops.Measurement(plan(numbers=1 << 14))
    measurement.run("diagonal")
    assert {(row.B, row.T, row.D) for row in measurement.rows} == {(4, 16, 256), (1, 64, 256)}
    for row in measurement.rows:
        assert row.bytes == (1 << 14) * 4 * {"forward": 3, "forward + backward": 8}[row.direction]
        assert row.seconds == seconds[row.contestant]
        assert row.share == 2.0 / row.seconds
        assert row.ratio == row.seconds / 4.0


def test_what_cannot_be_timed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses() -> None:
        raise RuntimeError("no kernel\nand more")

    def absent(problem: Problem) -> Contestant:
        raise ImportError("No module named 'fla'")

    op = fake(refuses)
    op = op._replace(peers={**op.peers, "absent": Peer(absent), "compiled": Peer(absent, compiled=True)})
    monkeypatch.setitem(OPS, "diagonal", op)
    measurement = ops.Measurement(plan(compiled_at=(128,)))
    measurement.run("diagonal")
    told = {(row.contestant, row.reason) for row in measurement.left_out}
    assert ("peer", "RuntimeError: no kernel") in told
    assert ("absent", "absent: No module named 'fla'") in told
    assert ("compiled", "timed at T = 128 only") in told
    assert not {row.contestant for row in measurement.rows} & {"peer", "absent", "compiled"}


def test_slow_peers_are_left_out_of_long_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    op = fake(lambda: None)
    monkeypatch.setitem(OPS, "diagonal", op._replace(peers={"peer": op.peers["peer"]._replace(sequential=True)}))
    monkeypatch.setattr(ops, "_PER_STEP", 16)
    monkeypatch.setattr(ops, "interleaved", lambda calls, *_, **__: dict.fromkeys(calls, 1.0))
    measurement = ops.Measurement(plan(longest_call=3.0))
    measurement.run("diagonal")
    assert {row.T for row in measurement.rows if row.contestant == "peer"} == {16}
    assert {row.reason for row in measurement.left_out if row.contestant == "peer"} == {
        "4 times more steps than at T = 16, which took 1.0 s"
    }
    late = ops.Measurement(plan(until=0.0))
    late.run("diagonal")
    assert not late.rows
    assert {row.reason for row in late.left_out} == {"out of time"}


def test_the_slow_are_called_twice_and_the_others_in_turn() -> None:
    calls: list[str] = []
    clock = iter([0.0, 1.0, 1.0, 6.0, 10.0, 11.0, 20.0, 23.0, 30.0, 32.0])
    contestants = {name: lambda name=name: calls.append(name) for name in ("quick", "slow")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: next(clock))
        found = interleaved(contestants, 3, patience=4.0)
    assert calls == ["quick", "quick", "slow", "slow", "quick", "quick", "quick"]
    assert found == {"quick": 2.0, "slow": 5.0}


def test_command_writes_tables_json_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "keep_freed_memory", lambda: True)  # a setting of the whole process
    ops.main(["--quick", "--op", "diagonal_constant", "--numbers", "16384", "--device", "cpu", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "ops-cpu.json").read_text())
    assert {"cpu", "cores", "threads", "torch", "date"} <= result["machine"].keys()
    contestants = {row["contestant"] for row in result["rows"] if row["T"] == 128}
    assert {ops.OURS, ops.LIMIT, "PyTorch loop", "torch associative_scan"} <= contestants
    assert all(row["seconds"] > 0 for row in result["rows"])
    assert (tmp_path / "diagonal_constant-cpu-float32.png").stat().st_size > 10_000
    assert "of copy" in capsys.readouterr().out


def test_claims_are_read_from_the_results(tmp_path: Path) -> None:
    assert all(claim.kept is None for claim in claims.every(tmp_path))

    def row(op: str, T: int, seconds: float, share: float, contestant: str = ops.OURS, ratio: float = 1.0) -> Any:
        sizes = {"B": (1 << 24) // (T * 16), "T": T, "D": 16}
        return {"op": op, "dtype": "float32", **sizes, "direction": "forward", "contestant": contestant,
                "seconds": seconds, "share": share, "bytes": 2 << 26, "ratio": ratio}  # fmt: skip

    rows = [
        row("diagonal", 2048, 1.0, 0.7),
        row("diagonal_constant", 2048, 1.0, 0.6),
        row("diagonal", 1 << 20, 1.3, 0.5),
    ]
    by_length = {"op": "diagonal", "dtype": "float32", "direction": "forward", "seconds": {"512": 1.0, "8192": 1.3}}
    results.write(tmp_path, "lengths-cpu", {"rows": [by_length]})
    what = "diagonal (8, 2048, 256), forward"
    results.write(tmp_path, "installed", {"rows": [{"what": what, "ratio": 9.5}]})
    jax = row("diagonal", 2048, 1.0, 0.1, "JAX associative_scan", 11.0) | {"B": 8, "D": 256}
    results.write(tmp_path, "ops-cpu", {"machine": {}, "rows": [*rows, jax]})
    results.write(tmp_path, "train-cpu", {"classifier": {"seconds": {"lru": 1.5, "matmul": 1.0, "jax": 9.0}}})
    by_name = {claim.what: claim for claim in claims.every(tmp_path)}
    share = "CPU, diagonal_scan, float32, > 100 MB, share of copy bandwidth, forward"
    assert by_name[share].measured == "60% (diagonal_constant; best 70%)"
    assert not by_name[share].kept
    assert by_name[f"{share} + backward"].kept is None
    assert by_name[f"CPU, {what}, times faster than {claims.LENT}"].kept
    assert not by_name[f"CPU, {what}, times faster than {claims.AS_INSTALLED}"].kept
    assert by_name["CPU, LRU classifier, training step over its matrix products alone"].measured == "1.50"
    assert by_name[f"CPU, LRU classifier, training step, times faster than {claims.LENT}"].kept
    spread = next(claim for what, claim in by_name.items() if what.startswith("CPU, diagonal_scan, time at T"))
    assert (spread.kept, spread.measured) == (False, "30%")


def test_every_length_is_timed_and_moves_as_much() -> None:
    rows = in_new_process("lengths", f"measured('diagonal_complex', 'float32', {1 << 21}, 'cpu', 1)")
    assert [row["direction"] for row in rows] == list(ops.PASSES)
    assert all(set(row["seconds"]) == {str(T) for T in lengths.LENGTHS} and row["copy"] > 0 for row in rows)
    drawn = given(OPS["diagonal_complex"])
    before, after = (problem.arguments[0].norm(dim=-2) for problem in (drawn, lengths.slow(drawn)))
    torch.testing.assert_close(1 - after, 0.01 * (1 - before), rtol=0, atol=1e-6)
    assert lengths.spread({"512": 2.0, "2048": 1.0, "8192": 1.5}) == 1.0
    processes = [{"op": "diagonal", "copy": 1.0, "seconds": {"512": slow, "2048": 2.0}} for slow in (9.0, 3.0, 4.0)]
    assert lengths.median(processes)["seconds"] == {"512": 4.0, "2048": 2.0}


@pytest.mark.parametrize("what", installed.WORK)
def test_processes_of_their_own_solve_the_same_problem(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jax")
    monkeypatch.setattr(installed, "SIZES", SMALL)
    monkeypatch.setattr(installed.train, "T", 16)
    ours, theirs = (installed.call(who, what) for who in (ops.OURS, installed.JAX))
    if what == installed.CLASSIFIER:
        assert ours() is None  # a step of training; the model in JAX has weights of its own
        assert math.isfinite(float(theirs()[0]))  # type: ignore[index]
        return
    for found, expected in zip(tensors(theirs()), tensors(ours()), strict=True):
        close(found.conj().resolve_conj() if "backward" in what else found, expected)


def test_pages_are_filled_between_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- end of a -->\nafter\n")
    results.fill(page, "a", results.markdown([["x", "y"], ["1", r"\g<1>"]]))
    assert results.between(page, "a") == "| x | y |\n| --- | ---: |\n| 1 | \\g<1> |"
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("\nafter\n")
    with pytest.raises(ValueError, match="no marks for b"):
        results.fill(page, "b", "")


def test_errors_are_within_those_published() -> None:
    found = precision.table(list(CHECKED), (128, 2048), CPU)
    assert precision.exceeded(found, precision.PAGE, CPU) == []


def test_the_check_of_errors_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = OPS["diagonal"]

    def careless(*arguments: Tensor) -> Tensor:
        h = exact.call(*arguments)
        return h * (1 + 1e-5) if h.dtype == torch.float32 else h

    monkeypatch.setitem(CHECKED, "diagonal", exact._replace(call=careless))
    wrong = precision.exceeded(precision.table(["diagonal"], (128,), CPU), precision.PAGE, CPU)
    assert any(line.startswith("diagonal float32 numba, T = 128: output") for line in wrong)
    assert not any("bfloat16" in line for line in wrong)
    unknown = [["op", "inputs", "backend", "T = 7"], ["diagonal", "float32", "numba", "1e-7 / 1e-7"]]
    assert precision.exceeded(unknown, precision.PAGE, CPU) == ["diagonal float32 numba, T = 7: not on the page"]


def test_tuning_keeps_the_fastest_of_each_parameter() -> None:
    tried = []

    def seconds(parameters: dict[str, int]) -> float:
        tried.append(parameters)
        if parameters["BLOCK_D"] == 32:
            return math.inf  # does not fit
        return abs(parameters["BLOCK_D"] - 64) + abs(parameters["num_warps"] - 8) + 1.0

    assert tune.fastest({"BLOCK_D": 128, "num_warps": 2, "EVERY": 16}, seconds) == {
        "BLOCK_D": 64, "num_warps": 8, "EVERY": 16,
    }  # fmt: skip
    assert all(parameters["EVERY"] == 16 for parameters in tried)


@pytest.mark.skipif(not resurge.dispatch.interpreted(), reason="Triton is absent, or there is a GPU")
def test_kernels_that_an_op_launches_are_found() -> None:
    with resurge.backend("triton"):
        names = tune.launched(eager(OPS["diagonal"].call, given(OPS["diagonal"])))
    assert {"diagonal_forward", "diagonal_backward"} <= names
    assert names <= tune.table().keys()


@pytest.mark.skipif(not resurge.dispatch.interpreted(), reason="Triton is absent, or there is a GPU")
def test_tuning_reaches_every_kernel_and_its_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is timed on a GPU; those that are too large for this machine launch no kernel more."""
    processors = SimpleNamespace(multi_processor_count=132)  # of an H100: few rows leave it idle, and are cut
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: processors)
    for op in ("diagonal", "selective_scan", "softmax_scan"):
        gpu = importlib.import_module(f"resurge.ops.{op}.gpu")
        monkeypatch.setattr(gpu, "chunks", lambda programs, T, _: launch.chunks(programs, T, torch.device("cuda")))
    for kind in ("normal", "uniform"):  # what the numbers are does not matter, and drawing them takes long
        monkeypatch.setattr(Draw, kind, lambda _, *shape: torch.zeros(shape))
    names: set[str] = set()
    with resurge.backend("triton"):
        for _, op, sizes in tune.problems():
            if math.prod(sizes) <= math.prod(tune.LONG):
                names |= tune.launched(eager(op.call, draw(op, sizes, CPU, torch.bfloat16)))
    assert names == tune.table().keys()
    parameters = {name for row in tune.table().values() for name in row}
    assert parameters - tune.CANDIDATES.keys() == {"num_stages", "maxnreg"}  # the compiler's, set by hand


def test_forced_backends_agree() -> None:
    for op in OPS.values():
        for backend in ("torch", "reference"):
            close(forced(backend, op.call, given(op)).forward(), eager(op.call, given(op)).forward())
