"""Commands about what there is: systems and their claims, data, this machine, the shell."""

import os
import platform
import sys
import textwrap
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

import tyro

from resurge.cli.command import Command, Flag, json_line
from resurge.errors import ResurgeError

_INDENTED: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": " " * 12, "break_long_words": False}


@dataclass
class Systems(Command):
    """List the published systems: paper, parts, claim, and the last verified result."""

    NAME: ClassVar[str] = "systems"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "resurge systems",
        "resurge systems --json",
    )
    json: Flag = False
    """One JSON object: {"systems": [...]}."""

    def run(self) -> int:
        from resurge import recipes

        systems = [_system(module) for module in recipes.systems()]
        if self.json:
            print(json_line({"systems": systems}))
            return 0
        for index, system in enumerate(systems):
            arxiv = f"   arXiv {system['arxiv']}" if system["arxiv"] else ""
            print(("\n" if index else "") + f"{system['slug']}   {system['title']} ({system['year']}){arxiv}")
            print(f"  layers    {', '.join(system['layers']) or '-'}   ops: {', '.join(system['ops']) or '-'}")
            print(textwrap.fill(f"recipes   {', '.join(system['recipes']) or '-'}", 100, **_INDENTED))
            print(textwrap.fill(f"claim     {system['claim'] or '-'}", 100, **_INDENTED))
            print(textwrap.fill(f"verified  {_verified(system['verified'])}", 100, **_INDENTED))
        return 0


@dataclass
class Verify(Command):
    """Run a published system's claim here; exit code 0 only if it holds, 1 if it does not.

    The last line is the measured figures as one JSON object.
    """

    NAME: ClassVar[str] = "verify"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "resurge verify lru",
        "resurge verify lru --seed 1 --quick",
    )
    slug: tyro.conf.Positional[str]
    """The system; `resurge systems` lists them."""
    seed: int | None = None
    """In place of the claim's own."""
    device: str | None = None
    """In place of the claim's own: "cpu", "cuda"."""
    quick: Flag = False
    """A small run, which shows that the claim can be run."""
    record: Flag = False
    """Write the result into the package too, to be shipped with it."""

    def run(self) -> int:
        from resurge.recipes import verify

        outcome = verify.verify(self.slug, seed=self.seed, device=self.device, quick=self.quick)
        if self.record:
            print(f"recorded in {verify.record(outcome)}", file=sys.stderr)
        verdict = "holds" if outcome.holds else "does NOT hold"
        print(f"{self.slug}: the claim {verdict}{' in this quick run' if self.quick else ''}")
        print(f"  measured {outcome.measured:.6g}, threshold {outcome.threshold:.6g}, baseline {outcome.baseline:.6g}")
        print(f"  paper: {outcome.paper}")
        print(f"  {outcome.minutes:.1f} minutes on {outcome.machine}")
        print(json_line(asdict(outcome)))
        return 0 if outcome.holds else 1


@dataclass
class Data(Command):
    """List the data sets, get one ready (download or generate), or show what is in one."""

    NAME: ClassVar[str] = "data"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "resurge data list",
        "resurge data get listops",
        "resurge data show digits --json",
    )
    action: tyro.conf.Positional[Literal["list", "get", "show"]] = "list"
    """What to do."""
    name: tyro.conf.Positional[str] = ""
    """The data set, for get and show."""
    data_dir: str = ""
    """The data folder; by default $RESURGE_DATA, else "data" in the cache folder."""
    json: Flag = False
    """Print one JSON object, the last line."""

    def run(self) -> int:
        from resurge import data
        from resurge.data.folder import FolderTask

        if self.action == "list":
            rows = [entry._asdict() for entry in data.describe()]
            if self.json:
                print(json_line({"data": rows}))
            for row in [] if self.json else rows:
                print(f"{row['name']:<13} {'here' if row['present'] else '-':<5} {row['summary']}")
                print(f"{'':<20}{row['source']}")
            return 0
        if not self.name:
            raise ResurgeError(f"data {self.action} needs a name; known: {', '.join(data.tasks())}")
        if self.action == "get":
            data.prepare(self.name, self.data_dir)
            print(json_line({"name": self.name, "ready": True}) if self.json else f"{self.name} is ready")
            return 0
        kind = data.task(self.name)
        figures = _contents(kind(data_dir=self.data_dir) if issubclass(kind, FolderTask) else kind())
        if self.json:
            print(json_line(figures))
        else:
            for name, value in figures.items():
                print(f"{name:<9} {value}")
        return 0


@dataclass
class Info(Command):
    """Tell the versions, which backend serves what, threads, and the folders in use."""

    NAME: ClassVar[str] = "info"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "resurge info",
        "resurge info --json",
    )
    json: Flag = False
    """Print one JSON object."""

    def run(self) -> int:
        import torch

        import resurge
        from resurge.data.folder import folder
        from resurge.files import cache_dir

        info: dict[str, Any] = {
            "resurge": resurge.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: _version(name) for name in ("numpy", "numba", "lightning", "safetensors", "tyro")},
            "system": f"{platform.system()} {platform.machine()}",
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "cache": str(cache_dir()),
            "data": str(folder()),
        }
        backends = resurge.backends()
        if self.json:
            print(json_line({**info, "backends": [backend._asdict() for backend in backends]}))
            return 0
        for name, value in info.items():
            print(f"{name:<11} {value}")
        print("backends")
        for backend in backends:
            print(f"  {backend.name:<10}{'yes' if backend.available else 'no':<4}{backend.serves} ({backend.reason})")
        return 0


@dataclass
class Completion(Command):
    """Print a script that completes commands, recipes and options in your shell."""

    NAME: ClassVar[str] = "completion"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "resurge completion bash > ~/.local/share/bash-completion/completions/resurge",
        "resurge completion zsh > ~/.zfunc/_resurge      (with fpath+=~/.zfunc in ~/.zshrc)",
        "resurge completion fish > ~/.config/fish/completions/resurge.fish",
    )
    shell: Annotated[Literal["bash", "zsh", "tcsh", "fish"], tyro.conf.Positional]
    """Your shell."""

    def run(self) -> int:
        from resurge.cli.completion import script

        print(script(self.shell))
        return 0


def _system(module: Any) -> dict[str, Any]:
    """One system as plain values: its paper, what it is built from, its claim, and how it was last verified."""
    from resurge.layers import layer_class, names
    from resurge.recipes import verify

    paper = module.PAPER
    made = {name: make() for name, make in module.EXPERIMENTS.items()}
    own = [name for name in names() if paper == layer_class(name).PAPER]
    layers = [layer_class(name) for name in dict.fromkeys([*own, *(e.model.layer.NAME for e in made.values())])]
    last = verify.last(paper.slug)
    return {
        "slug": paper.slug,
        "title": paper.title,
        "authors": paper.authors,
        "year": paper.year,
        "arxiv": paper.arxiv,
        "layers": [layer.__name__ for layer in layers],
        "ops": list(dict.fromkeys(op for layer in layers for op in layer.OPS)),
        "recipes": [f"{paper.slug}/{name}" for name in made],
        "claim": module.CLAIM,
        "verified": None if last is None else asdict(last),
    }


def _verified(last: dict[str, Any] | None) -> str:
    if last is None:
        return "never"
    verdict = "holds" if last["holds"] else "does not hold"
    commit = f", commit {last['commit']}" if last["commit"] else ""
    return (
        f"{verdict}: {last['measured']:.6g} (threshold {last['threshold']:.6g}, baseline {last['baseline']:.6g}); "
        f"{last['date']}, resurge {last['version']}{commit}, {last['machine']}, {last['minutes']:.1f} min"
    )


def _contents(task: Any) -> dict[str, Any]:
    """Sizes and first item of a task's data."""
    import torch

    splits = task.load()
    batch = splits.train.batch(torch.arange(1))
    spec = splits.spec
    figures = {"name": task.name, "train": len(splits.train), "val": len(splits.val), "test": len(splits.test)}
    return {
        **figures,
        "inputs": f"{spec.kind}, {spec.d_input} {'channels' if spec.kind == 'values' else 'kinds'}",
        "shape": "x".join(map(str, batch.inputs.shape[1:])),
        "target": spec.target,
        "classes": spec.classes,
    }


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
