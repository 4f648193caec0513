"""Compiles every Triton kernel ahead of time, where there need be no GPU: registers, spills, instructions, and more.

Instructions are those of the loop with most accesses to memory, for each of these. While an H200's memory serves a
warp's access, a processor executes 28 (float32) or 14 (bfloat16): kernels that should be bound by memory stay below.

Each op is called forward and backward with its launches written down instead of run; what was written down is compiled
for each architecture with the arguments' types. A kernel that spills registers to memory fails.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

ARCHITECTURES = (80, 90)
DTYPES = ("float32", "bfloat16", "float16")  # the last only if it is asked for
STEPS = 64  # enough for every op to cut time into pieces
_TYPES = {
    torch.float64: "*fp64", torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16",
    torch.bool: "*i1", torch.int32: "*i32", torch.int64: "*i64",
}  # fmt: skip


class Compiled(NamedTuple):
    """One kernel for one architecture."""

    op: str
    kernel: str
    dtype: str
    constants: str
    sm: int
    registers: int
    shared_bytes: int
    spilled_bytes: int
    instructions: float  # for each access to memory in the loop that has most of them


def diagonal(dtype: torch.dtype, T: int) -> None:
    from resurge.ops import diagonal_scan, diagonal_scan_pairs

    B, D = 1, 128  # few channels, so that time is cut into pieces
    for scan, row in ((diagonal_scan, (D,)), (diagonal_scan_pairs, (2, D))):
        for steps in ((), (B, T)):
            for cut, reverse in ((None, False), (torch.zeros(B, T, dtype=torch.bool), True)):
                a, x, h0 = _leaf((*steps, *row), dtype if steps else None), _leaf((B, T, *row), dtype), _leaf((B, *row))
                _backward(scan(a, x, h0, reset=cut, reverse=reverse))


def bidirectional(dtype: torch.dtype, T: int) -> None:
    from resurge.ops import bidirectional_scan, bidirectional_scan_pairs

    B, D = 1, 128  # few channels, so that time is cut into pieces
    for scan, row in ((bidirectional_scan, (D,)), (bidirectional_scan_pairs, (2, D))):
        for steps in ((), (B, T)):
            for cut in (None, torch.zeros(B, T, dtype=torch.bool)):
                a, x = _leaf((*steps, *row), dtype if steps else None), _leaf((B, T, *row), dtype)
                _backward(scan(a, x, reset=cut))


def decay(dtype: torch.dtype, T: int) -> None:
    from resurge.ops import decay_scan, normalized_decay_scan

    for scan in (decay_scan, normalized_decay_scan):
        log_a, x, h0 = _leaf((1, T, 128)), _leaf((1, T, 128), dtype), _leaf((1, 128))
        _backward(scan(log_a, x, h0))


def short_conv(dtype: torch.dtype, T: int) -> None:
    from resurge.ops import short_conv

    for K in (2, 4, 8):
        for reset in (None, torch.zeros(1, T, dtype=torch.bool)):
            _backward(short_conv(_leaf((1, T, 128), dtype), _leaf((128, K)), reset=reset))


def softmax(dtype: torch.dtype, T: int) -> None:
    from resurge.ops import softmax_scan

    B = 1
    for H, D in ((128, 128), (2, 128), (1, 256)):  # RWKV-4, heads of 64 channels, a head that falls in two
        for cut in (None, torch.zeros(B, T, dtype=torch.bool)):
            k, v = _leaf((B, T, H), dtype), _leaf((B, T, D), dtype)
            w, u = (_leaf((H,)), _leaf((H,))) if H == D else (None, None)
            y, state = softmax_scan(k, v, w, u, (_leaf((B, H)), _leaf((B, D)), _leaf((B, H))), reset=cut)
            _backward((y, *state))


def selective(dtype: torch.dtype, T: int) -> None:
    from resurge.ops import selective_scan

    B, D, N = 1, 32, 16  # few channels, so that time is cut into pieces
    for given in (True, False):
        u, delta, z = (_leaf((B, T, D), dtype) for _ in range(3))
        b, c = _leaf((B, T, N), dtype), _leaf((B, T, N), dtype)
        reset = torch.zeros(B, T, dtype=torch.bool) if given else None
        options = {"dt": _leaf((B, T)), "reset": reset} if given else {}
        _backward(selective_scan(u, delta, _leaf((D, N)), b, c, _leaf((D,)), z if given else None, **options))


def lem(dtype: torch.dtype, T: int) -> None:
    from resurge.ops import lem_scan

    B, D = 1, 128
    for cut in (None, torch.zeros(B, T, dtype=torch.bool)):
        p, R, C = _leaf((B, T, 4 * D), dtype), _leaf((3 * D, D)), _leaf((D, D))
        _backward(lem_scan(p, R, C, _leaf((B, T)), reset=cut))


def sigmoid(dtype: torch.dtype, T: int) -> None:
    from resurge.ops import sigmoid_scan

    for cut in (None, torch.zeros(1, T, dtype=torch.bool)):
        _backward((sigmoid_scan(_leaf((1, T, 128), dtype), _leaf((128, 128)), reset=cut),))


CASES: dict[str, Callable[[torch.dtype, int], None]] = {
    "bidirectional_scan": bidirectional,
    "diagonal_scan": diagonal,
    "decay_scan": decay,
    "lem_scan": lem,
    "selective_scan": selective,
    "short_conv": short_conv,
    "sigmoid_scan": sigmoid,
    "softmax_scan": softmax,
}


def _leaf(shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    return torch.zeros(shape, dtype=dtype or torch.float32, requires_grad=True)


def _backward(outputs: tuple[Tensor, ...]) -> None:
    sum(v.float().sum() for v in outputs).backward()  # type: ignore[union-attr]


def compile_all(
    ops: list[str], dtypes: list[torch.dtype], architectures: list[int], counted: str
) -> Iterator[Compiled]:
    """Every distinct kernel of the ops, compiled for each architecture.

    Instructions are those of kernels whose names start with `counted`: to disassemble takes as long as to compile.
    """
    import resurge
    from resurge import dispatch
    from resurge.ops.launch import recording

    dispatch.interpreted = lambda: True  # type: ignore[assignment]  # nothing runs, so that any device will do
    for op in ops:
        for dtype in dtypes:
            with recording() as launches, resurge.backend("triton"):
                CASES[op](dtype, STEPS)
            seen = {}
            for launch in launches:
                seen[launch.kernel.fn.__name__, _signature(launch)] = launch
            for launch in seen.values():
                for sm in architectures:
                    yield _compile(op, dtype, launch, sm, launch.kernel.fn.__name__.startswith(counted))


def _signature(launch: Any) -> tuple[Any, ...]:
    types = tuple(_TYPES[v.dtype] if isinstance(v, Tensor) else type(v).__name__ for v in launch.arguments)
    return (*types, *sorted(launch.constants.items()))


def _compile(op: str, dtype: torch.dtype, launch: Any, sm: int, counted: bool) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, constants = launch.kernel, dict(launch.constants)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages", "maxnreg") if name in constants}
    signature: dict[str, str] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for i, (name, value) in enumerate(zip(kernel.arg_names, launch.arguments, strict=False)):
        if value is None or isinstance(value, bool):
            signature[name] = "constexpr"
            constants[name] = value
        elif isinstance(value, Tensor):
            signature[name] = _TYPES[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        elif isinstance(value, int) and value == 1 and not kernel.params[i].do_not_specialize:
            signature[name] = "constexpr"  # Triton makes a kernel of its own for 1, and for multiples of 16
            constants[name] = value
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
            if isinstance(value, int) and value % 16 == 0 and not kernel.params[i].do_not_specialize:
                attributes[(i,)] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys([name for name in kernel.arg_names if name in launch.constants], "constexpr")
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(k),): v for k, v in constants.items()}, attributes)
    made = triton.compile(source, target=GPUTarget("cuda", sm, 32), options=options)
    registers, spilled, instructions = _resources(made.asm["ptx"], sm, counted)
    flags = ", ".join(f"{k}={v}" for k, v in launch.constants.items() if k not in options)
    return Compiled(
        op, kernel.fn.__name__, str(dtype)[6:], flags, sm, registers, made.metadata.shared, spilled, instructions
    )


def _resources(ptx: str, sm: int, counted: bool) -> tuple[int, int, float]:
    """Registers a thread, the bytes that a thread spills to memory, and instructions an access in the main loop."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx)
        name = f"sm_{sm}a" if sm >= 90 else f"sm_{sm}"
        told = _output(tools / "ptxas", "-v", f"--gpu-name={name}", source, "-o", target)
        machine_code = _output(tools / "cuobjdump", "-sass", target) if counted else ""
    registers, stores = re.search(r"Used (\d+) registers", told), re.search(r"(\d+) bytes spill stores", told)
    if registers is None or stores is None:
        raise RuntimeError(f"ptxas did not tell registers and spills:\n{told}")
    return int(registers[1]), int(stores[1]), _per_access(machine_code)


def _output(*command: Any) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _per_access(machine_code: str) -> float:
    """Instructions for each load from memory and store to it, in the loop with most of these; 0 without a loop."""
    lines = [(int(m[1], 16), m[2]) for m in re.finditer(r"/\*([0-9a-f]{4,})\*/\s+([^;]+);", machine_code)]
    instructions, most = 0.0, 0
    for end, instruction in lines:
        jump = re.search(r"\bBRA\b.* (?:`\()?(0x[0-9a-f]+)", instruction)
        if jump is None or int(jump[1], 16) >= end:
            continue
        body = [text for at, text in lines if int(jump[1], 16) <= at <= end]
        accesses = sum("LDG" in text or "STG" in text for text in body)
        if accesses > most:
            instructions, most = len(body) / accesses, accesses
    return instructions


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks kernels", description=__doc__)
    parser.add_argument("--op", choices=CASES, action="append", help="only this op")
    parser.add_argument("--dtype", choices=DTYPES, action="append", help="only this type of inputs")
    parser.add_argument("--sm", choices=ARCHITECTURES, type=int, action="append", help="only this architecture")
    parser.add_argument("--count", default="", help="instructions only of kernels whose names start so")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args(words)
    dtypes = [getattr(torch, name) for name in arguments.dtype or DTYPES[:2]]
    made = []
    architectures = arguments.sm or list(ARCHITECTURES)
    for compiled in compile_all(arguments.op or list(CASES), dtypes, architectures, arguments.count):
        made.append(compiled)
        print(
            f"{compiled.kernel:28s} {compiled.dtype:9s} sm_{compiled.sm}  {compiled.registers:3d} registers "
            f"{compiled.shared_bytes:6d} B shared {compiled.spilled_bytes:5d} B spilled "
            f"{compiled.instructions:5.1f} instructions an access  {compiled.constants}",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps([compiled._asdict() for compiled in made], indent=1) + "\n")
    spilled = [compiled for compiled in made if compiled.spilled_bytes]
    print(f"{len(made)} kernels compiled, {len(spilled)} of them spill")
    if spilled:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
