"""README and guides are run: Python blocks in order in one namespace, `resurge` lines by the command line."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import laws
import numpy as np
import pytest
import torch

from resurge import cli, layers, recipes
from resurge.layer import RecurrentLayer
from resurge.recipes import verify

ROOT = Path(__file__).parents[1]
SYSTEMS = sorted((ROOT / "docs" / "systems").glob("*.md"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md")), *SYSTEMS]
SMALL = "--max-steps 12 --val-steps 6"  # what `fit` on a page is run with, and a model of one narrow layer


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    code: str
    line: int
    run: bool  # unless an HTML comment before it says why not


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"(?:<!-- not run: (?P<why>[^\n]+) -->\n)?^```(\w+)\n(.*?)^```$", text, re.M | re.S)
    return [Block(m[2], m[3], text.count("\n", 0, m.start(2)), m["why"] is None) for m in found]


def commands(block: Block) -> list[str]:
    """The lines of a shell block that are typed, without prompt and comment."""
    lines = block.code.splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [re.sub(r"\s+#.*", "", line) for line in lines if "resurge " in line]


def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def your_files() -> None:
    """The files of the user whom the README speaks to."""
    rng = np.random.default_rng(0)
    with open("my.csv", "w", encoding="utf-8") as mine, open("new.csv", "w", encoding="utf-8") as new:
        mine.write("id,label,x,y,z\n")
        new.write("id,x,y,z\n")
        for i in range(40):
            for step in rng.standard_normal((12, 3)) + i % 2:
                mine.write(f"{i},{('walk', 'run')[i % 2]},{','.join(f'{v:.3f}' for v in step)}\n")
                new.write(f"{i},{','.join(f'{v:.3f}' for v in step)}\n")
    Path("live.txt").write_text("0.03,-0.91,0.22\n0.05,-0.87,0.20\n\n0.41,-1.30,0.65\n")


def run_command(line: str, expect: int) -> None:
    line = re.sub(r"(?<=resurge fit )(\S+)(.*)", rf"\1\2 {SMALL}", line)
    if re.search(r"[|<>]", line):  # the shell is part of it
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(line, shell=True, env={**os.environ, "PATH": path}, capture_output=True, text=True)
        assert done.returncode == expect, f"{line}\n{done.stderr}"
        assert done.stdout.strip(), f"{line}: no answer"
    else:
        assert cli.main(shlex.split(line)[1:]) == expect, line


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Models this small gain nothing from more, and wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parses(line: str) -> None:
    name, *rest = shlex.split(line)[1:]
    cli.commands()[name].parse(rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.chdir(tmp_path)
    your_files()
    torch.use_deterministic_algorithms(False)  # readers do not poison their memory
    get = recipes.get
    monkeypatch.setattr(recipes, "get", lambda name: recipes.override(get(name), model__d_model=8, model__depth=1))
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # torch.compile looks a layer's module up by its name
    namespace = vars(module)
    for block in blocks(page):
        if block.language == "python":
            code = "\n" * block.line + block.code  # so that a traceback names the line of the page
            if block.run:
                exec(compile(code, str(page), "exec"), namespace)
            else:
                compile(code, str(page), "exec")
            for name, made in list(namespace.items()):  # what the import line on the page would do
                if isinstance(made, type) and issubclass(made, RecurrentLayer) and made.__module__ == "page":
                    monkeypatch.setitem(layers._LAYERS, name.lower(), made)
        elif block.language in ("sh", "console"):
            for line in commands(block):
                refused = f"$ {line}\nresurge: error" in block.code
                if block.run:
                    run_command(line, 2 if refused else 0)
                elif line.startswith("resurge "):
                    parses(line)
    if "Leaky" in namespace:
        for law in laws.LAWS:
            torch.manual_seed(1)
            law(namespace["Leaky"](8).double())


def test_pages_have_something_to_run() -> None:
    assert len(PAGES) >= 5
    for page in PAGES:
        assert any(block.run and block.language == "python" for block in blocks(page)), page.name


def test_the_layer_of_the_guide_keeps_the_limit() -> None:
    code = blocks(ROOT / "docs" / "guide" / "your-layer.md")[0].code
    assert "class Leaky" in code
    assert len(code.splitlines()) <= 90


def nav_files(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [name for part in parts for name in nav_files(part)]


def test_the_navigation_names_the_pages_that_exist() -> None:
    yaml = pytest.importorskip("yaml")
    nav = nav_files(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    docs = ROOT / "docs"
    assert sorted(nav) == sorted(str(path.relative_to(docs)) for path in docs.rglob("*.md"))


def test_the_reference_has_a_page_a_package() -> None:
    packages = {path.parent.name for path in (ROOT / "src" / "resurge").glob("*/__init__.py")} - {"nn", "cli"}
    pages = {path.stem for path in (ROOT / "docs" / "api").glob("*.md")}
    assert packages <= pages
    models = (ROOT / "docs" / "api" / "models.md").read_text(encoding="utf-8")
    assert "::: resurge.nn" in models


def test_every_layer_is_in_the_catalogue() -> None:
    catalogue = hooks().catalogue()
    for name in layers.names():
        cls = layers.layer_class(name)
        assert f"::: resurge.layers.{cls.__name__}\n" in catalogue
        assert cls.PAPER.title in catalogue
        assert f'`"{name}"`' in catalogue


@pytest.mark.parametrize("name", layers.names())
def test_the_lines_of_the_catalogue_run(name: str) -> None:
    code = hooks().example(name)
    assert len(code.splitlines()) == 5
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    assert namespace["y"].shape == (8, 100, 64)
    assert namespace["y_t"].shape == (8, 64)


@pytest.mark.parametrize("name", layers.names())
def test_docstrings_of_layers_tell_everything(name: str) -> None:
    cls = layers.layer_class(name)
    assert "Source: " in (cls.__doc__ or "")
    named = re.findall(r"as in `(\w+)`", cls.__doc__ or "")  # a variant tells what differs
    text = "\n".join([cls.__doc__ or "", *(getattr(layers, other).__doc__ for other in named)])
    for part in ("\n\n        ", "    Args:\n", "    State: "):
        assert part in text, f"{name} lacks {part.strip() or 'an equation'}"


def test_the_readme_lists_every_layer() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in layers.names():
        assert f"`{layers.layer_class(name).__name__}`" in readme


def test_every_system_has_a_page_and_a_picture() -> None:
    slugs = {module.PAPER.slug for module in recipes.systems()}
    assert {page.stem for page in SYSTEMS} == slugs
    assert {path.stem for path in (ROOT / "docs" / "images" / "systems").glob("*.svg")} == slugs
    overview = hooks().systems()
    for slug in slugs:
        assert f"](systems/{slug}.md)" in overview


@pytest.mark.parametrize("page", SYSTEMS, ids=lambda page: page.stem)
def test_page_of_a_system_tells_everything(page: Path) -> None:
    module = verify.system(page.stem)
    text = page.read_text(encoding="utf-8")
    assert f"](../images/systems/{page.stem}.svg)\n\n*" in text, "a picture has a caption"
    told = hooks().on_page_markdown(text)
    assert "<!--" not in told
    assert module.PAPER.title in told
    assert module.CLAIM in told
    assert "\n```text\n" in told, "an equation"
    assert "State: " in told
    assert "Cost: " in told
    for cls in map(layers.layer_class, layers.names()):
        if cls.PAPER.slug == page.stem:
            assert cls.__name__ in told
    for name in module.EXPERIMENTS:
        assert f"| `resurge fit {page.stem}/{name}` |" in told
    last = hooks().recorded(page.stem)
    if last is not None:
        for value in (last.measured, last.baseline, last.threshold):
            assert f" {value:.4g}" in told


@pytest.mark.parametrize("page", SYSTEMS, ids=lambda page: page.stem)
def test_picture_of_a_system_is_small_and_has_colours_for_dark_screens(page: Path) -> None:
    svg = (ROOT / "docs" / "images" / "systems" / f"{page.stem}.svg").read_text(encoding="utf-8")
    assert len(svg.encode()) <= 50_000
    assert "prefers-color-scheme:dark" in svg
    assert "var(--paper)" in svg
    ink = re.findall(r"<text [^>]*fill: (#\w+)", svg)
    assert not ink, "letters in a colour that does not change with the screen"


def test_links_of_the_repository_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if not link.startswith(("http:", "https:")):
                assert (page.parent / link).exists(), f"{page.name} links to {link}"
