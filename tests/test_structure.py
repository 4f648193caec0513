"""What keeps the house in order: which way imports point, how long files are, and what `import resurge` brings."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "resurge"
FILES = sorted(SOURCE.rglob("*.py"))

# What each part may import of the package. Types of settings (recipes.base) stand below training, recipes above it.
BASE = {"errors", "files", "jit", "paper", "memory"}
CORE = BASE | {"state", "dispatch"}
MIDDLE = CORE | {"layer", "ops", "nn", "layers", "models"}
USES = MIDDLE | {"lsrl", "data", "recipes.base", "resurge"}
MAY_IMPORT = {
    **dict.fromkeys(BASE, BASE),
    "state": BASE,
    "dispatch": BASE,
    "layer": CORE,
    "ops": CORE,
    "nn": CORE | {"layer", "ops"},
    "layers": CORE | {"layer", "ops", "nn"},
    "models": CORE | {"layer", "ops", "nn", "layers"},
    "data": BASE,
    "training": USES,
    "inference": USES,
    "interop": MIDDLE,
    "lsrl": CORE | {"layers"},
    "analysis": USES | {"training", "inference", "recipes"},  # a report names the recipe's own settings
    "recipes": USES,
    "cli": USES | {"training", "inference", "analysis", "recipes"},
    "__main__": {"cli"},
    "resurge": MIDDLE,
}
LATER = {  # imported inside functions only
    "recipes": {"training", "inference", "analysis", "recipes"},
    "inference": {"training"},  # for its types
}
CORE_PACKAGES = {"torch", "numpy", "resurge", *sys.stdlib_module_names}  # numba and triton: see below


def part(module: str) -> str:
    """The part of the package that a module belongs to: "resurge.layers.lru" is of "layers"."""
    names = module.split(".")
    if names[1:] == ["recipes", "base"]:
        return "recipes.base"
    return names[1] if len(names) > 1 else "resurge"


def module_name(file: Path) -> str:
    names = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def imports(file: Path, *, nested: bool) -> Iterator[str]:
    """The modules that a file imports at module level, or those it imports elsewhere (functions, TYPE_CHECKING)."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    top = set(tree.body)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and (node not in top) == nested:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            else:
                assert node.module, f"{file.name} has a relative import"
                assert not node.level, f"{file.name} has a relative import"
                whole = node.module == "resurge" or (SOURCE.parent / node.module.replace(".", "/")).is_dir()
                inside = [f"{node.module}.{alias.name}" for alias in node.names] if whole else []
                yield from [name if exists(name) else node.module for name in inside] or [node.module]


def exists(module: str) -> bool:
    path = SOURCE.parent / module.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def wrong_ways(owner: str, module: str, allowed: set[str]) -> bool:
    if module.split(".")[0] != "resurge":
        return False
    return part(module) not in allowed | {owner}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_one_way(file: Path) -> None:
    owner = part(module_name(file))
    allowed = MAY_IMPORT["recipes" if owner == "recipes.base" else owner]
    if file.name == "__init__.py":
        allowed = allowed | {f"{owner}.base"}
    for module in imports(file, nested=False):
        assert not wrong_ways(owner, module, allowed), f"{owner} may not import {module}"
    allowed = allowed | LATER.get(owner, set())
    for module in imports(file, nested=True):
        assert not wrong_ways(owner, module, allowed), f"{owner} may not import {module}, not even later"


def test_the_test_of_imports_can_fail() -> None:
    assert wrong_ways("layers", "resurge.models.stack", MAY_IMPORT["layers"])
    assert wrong_ways("ops", "resurge.layer", MAY_IMPORT["ops"])
    assert wrong_ways("data", "resurge.layers", MAY_IMPORT["data"])
    assert wrong_ways("training", "resurge.recipes", MAY_IMPORT["training"])
    assert not wrong_ways("training", "resurge.recipes.base", MAY_IMPORT["training"])
    assert set(MAY_IMPORT) >= {part(module_name(file)) for file in FILES} - {"recipes.base"}


def test_a_layer_imports_no_other_layer() -> None:
    for file in (SOURCE / "layers").glob("[!_]*.py"):
        every = [*imports(file, nested=False), *imports(file, nested=True)]
        assert not [module for module in every if module.startswith("resurge.layers")], file.name


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_files_are_short(file: Path) -> None:
    length = len(file.read_text(encoding="utf-8").splitlines())
    of_a_layer = file.parent.name == "layers" and file.name != "__init__.py"
    assert length <= (200 if of_a_layer else 400), f"{length} lines"


def test_the_core_imports_nothing_optional() -> None:
    for file in FILES:
        owner = part(module_name(file))
        if owner in MIDDLE | {"resurge"} or file == SOURCE / "data" / "base.py":
            packages = {module.split(".")[0] for module in imports(file, nested=False)}
            if file == SOURCE / "jit.py" or file.stem in {"elementary", "rows", "streaming", "turns"}:
                packages -= {"numba", "llvmlite"}  # these are imported when a kernel is called
            if file.parent.parent == SOURCE / "ops" and file.name == "gpu.py":
                packages -= {"triton"}
            assert packages <= CORE_PACKAGES, f"{file.name}: {packages - CORE_PACKAGES}"


def test_importing_resurge_brings_nothing_optional() -> None:
    heavy = ["numba", "triton", "lightning", "matplotlib", "tyro", "sklearn", "pyarrow", "safetensors", "rich"]
    heavy += ["tensorboard", "transformers"]
    code = f"import sys, resurge; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_environment_variable_chooses_behaviour() -> None:
    # `files` and `data` ask where folders are, `dispatch` where a C compiler is
    for file in FILES:
        if part(module_name(file)) in (MIDDLE | {"training", "inference", "analysis"}) - {"files", "dispatch"}:
            assert "os.environ" not in file.read_text(encoding="utf-8"), file.name
