"""The house: floors whose imports go down only, no circles, no file too long, nothing private used from outside."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import dipair_lib

OF_TUPLES = {"_asdict", "_fields", "_make", "_replace"}  # what a NamedTuple has in public
LIBRARY = Path(dipair_lib.__file__).parent
# From the bottom. The package's own face, which only names what README uses, stands above them.
FLOORS = "system models data inference evaluation training scoring reporting experiments runner cli".split()
MODULES = {
    ".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(LIBRARY.rglob("*.py"))
}


@cache
def imports(module: str) -> list[str]:
    """The modules of the library that a module imports, also inside its functions."""
    found = []
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: line {node.lineno}: a relative import"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                found.append(inside if inside in MODULES else str(node.module))
    return [name for name in found if name.split(".")[0] == "dipair_lib" and name != module]


def floor_of(module: str) -> int:
    return FLOORS.index(module.split(".")[1])


def test_each_folder_is_a_floor() -> None:
    assert {module.split(".")[1] for module in MODULES if "." in module} == set(FLOORS)


@pytest.mark.parametrize("module", [module for module in MODULES if "." in module])
def test_imports_go_down_only(module: str) -> None:
    assert [name for name in imports(module) if "." in name and floor_of(name) > floor_of(module)] == []


def test_there_are_no_circles() -> None:
    """A package's face imports its own modules, and is imported by other floors alone."""
    TopologicalSorter({module: imports(module) for module in MODULES if "." in module}).prepare()


@pytest.mark.parametrize(
    "path", sorted(p for p in LIBRARY.rglob("*") if p.suffix in {".py", ".cpp", ".h", ".j2"})
)
def test_no_file_has_more_than_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf8").splitlines()) <= 400


def private_uses(path: Path) -> Iterator[str]:
    """Private names of other modules that a file reads: ``module._name``, or imported."""
    tree = ast.parse(path.read_text(encoding="utf8"))
    ours = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "dipair_lib":
            ours |= {alias.asname or alias.name for alias in node.names}
            yield from (alias.name for alias in node.names if alias.name.startswith("_"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ours:
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            yield from [f"{node.value.id}.{node.attr}"] if private and node.attr not in OF_TUPLES else []


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")))
def test_nothing_private_is_used_from_outside(path: Path) -> None:
    assert list(private_uses(path)) == []
