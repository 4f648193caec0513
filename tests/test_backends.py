"""What serves what: told once, never silently, never refused; and the Triton kernels where there is no GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import resurge
from benchmarks import kernels
from resurge import dispatch
from resurge.layers import LRU
from resurge.ops import launch

ROOT = Path(__file__).parents[1]


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code],
        capture_output=True, text=True, check=True, env={**os.environ, "TRITON_INTERPRET": "0", **environment},
    )  # fmt: skip
    return done.stdout + done.stderr


def test_every_backend_is_told_with_its_reason() -> None:
    told = {backend.name: backend for backend in resurge.backends()}
    assert list(told) == ["triton", "numba", "torch", "reference"]
    assert told["numba"].available
    if not torch.cuda.is_available():
        assert not told["triton"].available
        assert told["triton"].reason == "no CUDA device"


@pytest.mark.parametrize("module", ["numba", "triton"])
def test_work_goes_on_without_a_compiler(module: str, tmp_path: Path) -> None:
    """With a package that is there and cannot be imported: the plain form serves, compiled too, and says so once."""
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text("raise ImportError('no such library')", encoding="utf-8")
    code = f"""
import torch, resurge
from resurge.ops import diagonal_scan
for _ in range(2):
    h, _ = diagonal_scan(torch.tensor([0.5]), torch.ones(1, 3, 1))
print(h.flatten().tolist())
scan = lambda a, x: diagonal_scan(a, x)[0]
h = torch.compile(scan, fullgraph=True, backend="eager")(torch.tensor([0.5]), torch.ones(1, 3, 1))
print("compiled", h.flatten().tolist())
print([b.reason for b in resurge.backends() if b.name == {module!r}])
"""
    out = run(code, PYTHONPATH=str(tmp_path))
    assert "\n[1.0, 1.5, 1.75]" in f"\n{out}"
    assert "compiled [1.0, 1.5, 1.75]" in out
    assert f"{module} cannot be imported" in out
    assert out.count("serves, because") == (1 if module == "numba" else 0)  # triton is not missed on a CPU


def test_code_is_traced_for_kernels_that_are_not_loaded_yet() -> None:
    """And not loaded meanwhile: numba would keep what `torch.export` has put in the place of Python's functions."""
    out = run("""
import sys, torch, resurge
from resurge.ops import diagonal_scan
class Scan(torch.nn.Module):
    def forward(self, x):
        return diagonal_scan(torch.tensor([0.5]), x)[0]
exported = torch.export.export(Scan(), (torch.ones(1, 3, 1),))
print("resurge.diagonal_scan" in str(exported.graph), "numba" in sys.modules)
print(exported.module()(torch.ones(1, 3, 1)).flatten().tolist(), resurge.backends()[1].reason)
""")
    assert "True False\n[1.0, 1.5, 1.75] ready" in out


def test_code_traced_for_a_numba_that_cannot_be_imported_names_it(tmp_path: Path) -> None:
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("raise ImportError('no such library')", encoding="utf-8")
    out = run(
        """
import torch, resurge
from resurge.ops import diagonal_scan
scan = torch.compile(lambda a, x: diagonal_scan(a, x)[0], fullgraph=True, backend="eager")
for _ in range(2):
    try:
        print(scan(torch.tensor([0.5]), torch.ones(1, 3, 1)).flatten().tolist())
    except resurge.ResurgeError as error:
        print(error)
    torch._dynamo.reset()
""",
        PYTHONPATH=str(tmp_path),
    )
    assert "numba cannot be imported (no such library): what was traced" in out
    assert "[1.0, 1.5, 1.75]" in out  # traced anew
    assert "Traceback" not in out


def test_triton_tells_that_it_needs_a_c_compiler(tmp_path: Path) -> None:
    code = "import resurge; print(resurge.backends()[0])"
    assert "needs a C compiler" in run(code, PATH=str(tmp_path), CC="")
    assert "needs a C compiler" not in run(code, PATH=str(tmp_path), CC="my-cc")


def test_a_cache_that_cannot_be_written_is_told_and_does_no_harm() -> None:
    code = """
import torch, resurge
from numba.core import caching
caching.CacheImpl._locator_classes = []
from resurge.ops import diagonal_scan
print(diagonal_scan(torch.tensor([0.5]), torch.ones(1, 3, 1))[0].flatten().tolist())
print([b.reason for b in resurge.backends() if b.name == "numba"])
"""
    out = run(code)
    assert "[1.0, 1.5, 1.75]" in out
    assert "compiled anew in each process" in out


@pytest.mark.parametrize("enabled", [True, False])
def test_numba_is_loaded_whole_and_the_garbage_collector_left_as_it_was(enabled: bool) -> None:
    """At once, without a search for garbage, and not a part of it at the first kernel."""
    code = f"""
import gc, sys, torch
gc.{"enable" if enabled else "disable"}()
import resurge.jit
assert gc.isenabled() is {enabled}
from resurge.ops import diagonal_scan
a, x = torch.tensor([0.5], requires_grad=True), torch.ones(1, 3, 1)
before = {{"numba.core.boxing", *sys.modules}}  # compiling needs that, if the kernel is not on disk
diagonal_scan(a, x)[0].sum().backward()
print(sorted(name for name in set(sys.modules) - before if name.split(".")[0] in ("numba", "numpy", "scipy")))
"""
    assert run(code).strip() == "[]"


def test_what_numba_brought_is_not_searched_and_what_the_program_froze_stays_so() -> None:
    code = """
import gc, torch
searched = []
gc.callbacks.append(lambda phase, told: searched.append(told["generation"]))
from resurge.ops import diagonal_scan
{}
searched.clear()
diagonal_scan(torch.tensor([0.5]), torch.ones(1, 3, 1))
print(2 in searched, gc.get_freeze_count() > 0)
"""
    assert run(code.format("")).split() == ["False", "False"]
    assert run(code.format("gc.freeze()")).split()[1] == "True"


@pytest.mark.parametrize("missing", [True, False])
def test_scipy_is_imported_only_by_numba_code_that_calls_blas(missing: bool) -> None:
    """And numba's answer to the caller's own code is the one that it gives without us."""
    code = f"""
import sys, torch
if {missing}:
    sys.modules["scipy"] = None
from resurge.ops import diagonal_scan
diagonal_scan(torch.tensor([0.5]), torch.ones(1, 3, 1))
assert "scipy.linalg" not in sys.modules
import numba, numpy
try:
    print(numba.njit(lambda a: numpy.dot(a, a))(numpy.ones((2, 2))).sum())
except ImportError as error:
    print(error)
"""
    assert run(code).strip() == ("scipy 0.16+ is required for linear algebra" if missing else "8.0")


def test_a_backend_refuses_tensors_of_another_device() -> None:
    code = """
import torch, resurge
from resurge.ops import diagonal_scan
try:
    with resurge.backend("triton"):
        diagonal_scan(torch.tensor([0.5]), torch.ones(1, 3, 1))
except resurge.ResurgeError as error:
    print(error)
"""
    assert "backend 'triton' serves CUDA tensors, and was given tensors on 'cpu'" in run(code)
    with pytest.raises(resurge.ResurgeError, match="'numba' serves CPU tensors"), resurge.backend("numba"):
        dispatch.choose("cuda", torch.float32)


def test_explain_names_the_backend() -> None:
    assert "diagonal_scan <- numba" in resurge.explain(LRU(4, 4), torch.zeros(1, 2, 4))
    with resurge.backend("reference"):
        assert "forced" in resurge.explain(LRU(4, 4), torch.zeros(1, 2, 4))


@pytest.mark.timeout(1200)  # twice what it takes where other work runs beside it
def test_every_triton_kernel_compiles_without_spills(tmp_path: Path) -> None:
    """For sm_80 and sm_90, and of bfloat16 for sm_90, from the very calls that the ops make; no GPU is needed."""
    command = [sys.executable, "-m", "benchmarks", "kernels", "--count", "diagonal", "--json"]
    processes = [
        subprocess.Popen(
            [*command, str(tmp_path / options[0]), "--dtype", *options], stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "0"},
        )
        for options in (("float32",), ("bfloat16", "--sm", "90"))  # at once, since each keeps a core busy for minutes
    ]  # fmt: skip
    told = [process.communicate()[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), "".join(out[-3000:] for out in told)
    compiled, narrow = (json.loads((tmp_path / dtype).read_text()) for dtype in ("float32", "bfloat16"))
    ops = {path.parent.name for path in (ROOT / "src" / "resurge" / "ops").glob("*/gpu.py")}
    table = json.loads((ROOT / "src" / "resurge" / "ops" / "launch.json").read_text())
    assert {entry["kernel"] for entry in compiled} == set(table), (
        "a kernel without a case, or a stale line of the table"
    )
    assert {entry["kernel"] for entry in narrow} == set(table)
    assert {entry["sm"] for entry in compiled} == {80, 90}
    assert ops
    assert all(entry["spilled_bytes"] == 0 and 0 < entry["registers"] <= 255 for entry in compiled + narrow)
    plain = [entry for entry in compiled if entry["kernel"].startswith("diagonal") and "FORM=0" in entry["constants"]]
    slow = [entry for entry in plain if not 0 < entry["instructions"] <= 8]
    assert plain
    assert not slow, f"bound by instructions, not by memory: {slow}"


def compiled_for(T: int) -> set[tuple[object, ...]]:
    """All that Triton compiles anew for, of every launch that the ops make over T steps."""
    keys = set()
    with resurge.backend("triton"), launch.recording() as launches:
        for case in kernels.CASES.values():
            case(torch.float32, T)
    for kernel, arguments, constants in launches:
        free = getattr(kernel, "kwargs", vars(kernel))["do_not_specialize"]  # the interpreter's kernels have kwargs
        kinds = (
            (v.dtype, v.data_ptr() % 16) if isinstance(v, torch.Tensor) else type(v) if name in free else v
            for name, v in zip(kernel.arg_names, arguments, strict=False)
        )
        keys.add((kernel.fn.__name__, *kinds, *sorted(constants.items())))
    return keys


def test_launches_never_specialise_on_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new length must not compile anew. (Over one step, kernels of constant coefficients serve those that vary.)"""
    pytest.importorskip("triton")
    monkeypatch.setattr(dispatch, "interpreted", lambda: True)  # nothing runs, so that any device will do
    known = compiled_for(kernels.STEPS)
    assert {key[0] for key in known} == set(launch.table())
    for T in (1, 2, 3, 5, 9, 17, 48, 100):
        anew = {key[0] for key in compiled_for(T) - known}
        assert not anew, f"compiled anew for T = {T}"
