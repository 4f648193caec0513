"""Pages made from the code: the catalogue from the layers, the systems from the recipes, the index from the README."""

import re
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
    """Put the generated part of a page where its mark stands."""
    markdown = re.sub(r"<!-- include (\S+) -->\n", lambda match: included(match[1]), markdown)
    markdown = re.sub(r"<!-- catalogue -->\n", lambda _: catalogue(), markdown)
    return re.sub(r"<!-- systems -->\n", lambda _: systems(), markdown)


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
    """An entry for every system."""
    from resurge import recipes

    return "\n".join(system(module) for module in recipes.systems())


def system(module: Any) -> str:
    """One system: paper, claim, recipes, and how it was last verified."""
    from resurge.layers import layer_class
    from resurge.recipes import verify

    paper = module.PAPER
    used = dict.fromkeys(make().model.layer.NAME for make in module.EXPERIMENTS.values())
    rows = {
        "paper": source(paper),
        "layers": ", ".join(f"[{layer_class(name).__name__}](catalogue.md)" for name in used) or "none",
        "claim": getattr(module, "CLAIM", "") or "none yet",
        "verified": verified(verify.last(paper.slug)),
        "check it": f"`resurge verify {paper.slug}`",
    }
    lines = [f"## {paper.slug}", "", table(rows), "| recipe | what |", "| --- | --- |"]
    for name, make in module.EXPERIMENTS.items():
        lines.append(f"| `{paper.slug}/{name}` | {(make.__doc__ or '').splitlines()[0]} |")
    return "\n".join([*lines, ""])


def verified(last: Any) -> str:
    """The last recorded result in words."""
    if last is None:
        return "not recorded yet"
    return (
        f"{'holds' if last.holds else 'does not hold'}: measured {last.measured:.4g}, threshold {last.threshold:.4g}, "
        f"baseline {last.baseline:.4g}; the paper: {last.paper}. {last.date}, {last.minutes:.0f} min on {last.machine}"
    )


def source(paper: Any) -> str:
    """Title, authors and year, and a link where there is one."""
    link = f", [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else ""
    authors = paper.authors.split(" and ")
    names = " and ".join(authors) if len(authors) < 3 else f"{authors[0]} and others"
    return f"{paper.title}. {names}, {paper.year}{link}"


def size(shape: Any) -> str:
    """A shape as 64 x 64."""
    return " x ".join(map(str, shape))


def table(rows: dict[str, str]) -> str:
    """Names and values as a Markdown table."""
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items()), ""])
