"""Pages made from the code: the catalogue from the layers, the systems from the recipes, the index from the README."""

import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

EXAMPLE = """\
import torch
from resurge import layers
layer = layers.create("{name}", 64)  # or layers.{cls}(64)
y, state = layer(torch.randn(8, 100, 64))  # a whole sequence
y_t, state = layer.step(torch.randn(8, 64), state)
"""


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Put the generated parts of a page where their marks stand: `<!-- part -->` or `<!-- part name -->`."""

    def made(match: re.Match[str]) -> str:
        part, name = PARTS[match[1]], match[2]
        return str(part(name) if name else part())

    return re.sub(rf"<!-- ({'|'.join(PARTS)})(?: (\S+))? -->\n", made, markdown)


def included(name: str) -> str:
    """A page of the repository's root, its links seen from docs/."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return text.replace("](docs/", "](").replace("](CONTRIBUTING.md)", "](contributing.md)")


def example(name: str) -> str:
    """Five lines that make and run layer `name`."""
    from resurge import layers

    return EXAMPLE.format(name=name, cls=layers.layer_class(name).__name__)


def catalogue() -> str:
    """An entry for every layer."""
    from resurge import layers

    return "\n".join(entry(name) for name in layers.names())


def entry(name: str) -> str:
    """One layer: its docstring, where it is from, how large it is, and how it is called."""
    from resurge import layers, state

    layer = layers.create(name, 64)
    cls, paper = type(layer), layer.PAPER
    shapes = ", ".join(f"`{key}` {size(parameter.shape)}" for key, parameter in layer.named_parameters())
    parts = ", ".join(f"`{key}` {size(part.shape[1:])}" for key, part in state.named_tensors(layer.initial_state(1)))
    rows = {
        "paper": source(paper),
        "name": f'`"{name}"`',
        "state": f"{state.nbytes(layer.initial_state(1)):,} bytes a row: {parts}",
        "parameters": f"{sum(p.numel() for p in layer.parameters()):,}: {shapes}",
        "recurrence's own": ", ".join(f"`{key}`" for key in cls.RECURRENT) or "none",
        "ops": ", ".join(f"`{op}`" for op in cls.OPS),
    }
    return (
        f"::: resurge.layers.{cls.__name__}\n    options:\n      members: false\n      show_root_full_path: false\n\n"
        f"{table(rows)}\n```python\n{example(name)}```\n"
    )


def systems() -> str:
    """A row for every system, which leads to its page."""
    from resurge import recipes

    rows = ["| system | paper | layers | verified |", "| --- | --- | --- | --- |"]
    for module in recipes.systems():
        last = recorded(module.PAPER.slug)
        found = "not recorded yet" if last is None else f"{last.measured:.4g}, where a baseline has {last.baseline:.4g}"
        title = f"[{module.PAPER.slug}](systems/{module.PAPER.slug}.md)"
        rows.append(f"| {title} | {source(module.PAPER)} | {', '.join(layers_of(module.PAPER.slug))} | {found} |")
    return "\n".join([*rows, ""])


def layers_of(slug: str) -> list[str]:
    """The names of the layers that a system brings with it."""
    from resurge import layers

    classes = [layers.layer_class(name) for name in layers.names()]
    return [f"`{cls.__name__}`" for cls in classes if cls.PAPER.slug == slug]


def paper(slug: str) -> str:
    """Where a system is from."""
    from resurge.recipes import verify

    return f"{source(verify.system(slug).PAPER)}.\n"


def layer(name: str) -> str:
    """A layer's equations, state and cost, as its docstring has them, and its state in numbers."""
    from resurge import layers, state

    cls = layers.layer_class(name.lower())
    before = inspect.cleandoc(cls.__doc__ or "").partition("\nArgs:")[0]
    told = (re.search(r"^State: .*?(?=\n\n)", inspect.cleandoc(c.__doc__ or ""), re.M | re.S) for c in cls.__mro__)
    cost = next(found[0] for found in told if found)  # a variant does not repeat what it inherits
    equations = textwrap.dedent("\n".join(line for line in before.splitlines() if line.startswith("    ")))
    start = layers.create(name.lower(), 64).initial_state(1)
    size = sum(part.numel() for _, part in state.named_tensors(start))
    return (
        f"[`{name}`](../catalogue.md#resurge.layers.{name})\n\n```text\n{equations}\n```\n\n"
        f"{' '.join(cost.split())} With d_model 64 and all else at its default, the state has "
        f"{size:,} numbers, {state.nbytes(start):,} bytes.\n"
    )


def checked(slug: str) -> str:
    """What a system's recipe claims, how it was verified, with what figures, and what it offers to train."""
    from resurge.recipes import verify

    module = verify.system(slug)
    last = recorded(slug)
    rows = {
        "claim": module.CLAIM,
        "what holds": " ".join((module.check.__doc__ or "").split()),
        "last recorded": verified(last),
        "its figures": "none" if last is None else ", ".join(f"`{k}` {v:.4g}" for k, v in last.numbers.items()),
        "check it": f"`resurge verify {slug}`, with `--seed` any other seed",
    }
    lines = [table(rows)]
    if module.EXPERIMENTS:
        lines += ["| to train | what |", "| --- | --- |"]
    for name, make in module.EXPERIMENTS.items():
        lines.append(f"| `resurge fit {slug}/{name}` | {(make.__doc__ or '').splitlines()[0]} |")
    return "\n".join([*lines, ""])


def recorded(slug: str) -> Any:
    """The result that is shipped with the package, whatever the machine that builds these pages has measured since."""
    from resurge.recipes.verify import Verified

    path = ROOT / "src" / "resurge" / "recipes" / "verified" / f"{slug}.json"
    return Verified(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def verified(last: Any) -> str:
    """A recorded result in words."""
    if last is None:
        return "not recorded yet"
    return (
        f"{'holds' if last.holds else 'does not hold'}: measured {last.measured:.4g}, threshold {last.threshold:.4g}, "
        f"baseline {last.baseline:.4g}; the paper: {last.paper}. Seed {last.seed}, {last.date}, "
        f"{last.minutes:.1f} min on {last.machine}"
    )


def source(paper: Any) -> str:
    """Title, authors and year, and a link where there is one."""
    link = f", [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else ""
    authors = paper.authors.split(" and ")
    names = " and ".join(authors) if len(authors) < 3 else f"{authors[0]} and others"
    return f"{paper.title}{'' if paper.title.endswith('?') else '.'} {names}, {paper.year}{link}"


def size(shape: Any) -> str:
    """A shape as 64 x 64."""
    return " x ".join(map(str, shape))


def table(rows: dict[str, str]) -> str:
    """Names and values as a Markdown table."""
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items()), ""])


PARTS = {
    "include": included,
    "catalogue": catalogue,
    "systems": systems,
    "paper": paper,
    "layer": layer,
    "checked": checked,
}
