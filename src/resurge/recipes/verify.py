"""Running the claim of a published system, and remembering what came out, where and when."""

import json
import os
import platform
import subprocess
import time
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import resurge
from resurge.errors import ResurgeError, check_seed, unknown
from resurge.files import cache_dir, write_atomic

_SHIPPED = Path(__file__).parent / "verified"


@dataclass(frozen=True)
class Verified:
    """The outcome of one run of a claim."""

    slug: str
    holds: bool
    measured: float
    baseline: float
    threshold: float
    paper: str
    numbers: dict[str, float]
    seed: int | None
    quick: bool
    date: str
    version: str
    commit: str
    machine: str
    minutes: float


def system(slug: str) -> ModuleType:
    """The recipe module of the system `slug`.

    Raises:
        ResurgeError: no such system; the nearest slug is named.
    """
    from resurge import recipes

    known = {module.PAPER.slug: module for module in recipes.systems()}
    if slug not in known:
        raise unknown("system", slug, known)
    return known[slug]


def verify(slug: str, *, seed: int | None = None, device: str | None = None, quick: bool = False) -> Verified:
    """Run the claim of system `slug`, and keep the outcome in the cache folder.

    Args:
        slug: the system.
        seed, device: take the place of the configuration's own, if given.
        quick: the small configuration, which shows that the claim can be run; the full one shows that it holds.

    Raises:
        ResurgeError: no such system, one that has no claim to run, no such option of its configuration, or a seed or
            device that cannot be used.
    """
    module = system(slug)
    if not all(hasattr(module, name) for name in ("config", "run", "check")):
        raise ResurgeError(f"system '{slug}' has no claim that can be run: its module lacks config, run or check")
    if seed is not None:
        check_seed(seed)
    if device is not None:
        from resurge.training.runs import torch_device

        device = str(torch_device(device))
    config = module.config(quick)
    for name, value in (("seed", seed), ("device", device)):
        if value is not None:
            if name not in {field.name for field in fields(config)}:
                raise ResurgeError(f"system '{slug}' has no option '{name}'")
            config = replace(config, **{name: value})
    start = time.perf_counter()
    numbers = {name: float(value) for name, value in module.run(config).items()}
    minutes = (time.perf_counter() - start) / 60
    check = module.check(numbers)
    outcome = Verified(
        slug=slug,
        holds=bool(check.holds),
        measured=float(check.measured),
        baseline=float(check.baseline),
        threshold=float(check.threshold),
        paper=str(check.paper),
        numbers=numbers,
        seed=getattr(config, "seed", None),
        quick=quick,
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        version=resurge.__version__,
        commit=_commit(),
        machine=_machine(str(getattr(config, "device", "cpu"))),
        minutes=round(minutes, 2),
    )
    _write(_path(cache_dir() / "verified", slug, quick), outcome)
    return outcome


def record(outcome: Verified) -> Path:
    """Write `outcome` as the result that is shipped with the package, and return its file.

    Raises:
        ResurgeError: a quick run, which shows nothing, or a folder that cannot be written to.
    """
    if outcome.quick:
        raise ResurgeError("a quick run is not recorded: it shows that the claim can be run, not that it holds")
    path = _path(_SHIPPED, outcome.slug, quick=False)
    _write(path, outcome)
    return path


def last(slug: str) -> Verified | None:
    """The newest full result for system `slug`, this user's or the shipped one; None if it was never run."""
    found = [_read(_path(folder, slug, quick=False)) for folder in (cache_dir() / "verified", _SHIPPED)]
    return max((outcome for outcome in found if outcome is not None), key=lambda outcome: outcome.date, default=None)


def _path(folder: Path, slug: str, quick: bool) -> Path:
    return folder / f"{slug}{'.quick' if quick else ''}.json"


def _write(path: Path, outcome: Verified) -> None:
    write_atomic(path, (json.dumps(asdict(outcome), indent=2) + "\n").encode())


def _read(path: Path) -> Verified | None:
    """The result in `path`; None if there is none, or none that this version understands."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Verified(**values)
    except (OSError, ValueError, TypeError):
        return None


def _commit() -> str:
    """The commit of the checkout that this package runs from, "+" if it was changed since; "" if it is none."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return ""
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    return head + ("+" if head and _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _machine(device: str) -> str:
    """The processor (or GPU) that did the work."""
    if device.startswith("cuda") or device in ("gpu", "auto"):
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores"
