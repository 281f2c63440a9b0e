"""Where things are: scripts at the top, modules in wings that know only the wings below them."""

import ast
import os
from pathlib import Path
import re
import shutil
import stat
import subprocess
import sys

from conftest import REPOSITORY
import pytest

import metart

SCRIPTS = [
    "bigquery.py",
    "download.py",
    "convert.py",
    "train_image_classifier.py",
    "eval_image_classifier.py",
    "classify.py",
    "export_model.py",
]
MOST_ENTRIES = 35  # Of the top folder; what `ls` shows on one screen.


def tracked() -> list[Path]:
    """Returns the files of the repository, relative to it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [path for path in map(Path, listed.stdout.split("\0")) if path.name and (REPOSITORY / path).is_file()]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the check of ./test.sh on the modules below a folder."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_top_folder_fits_a_screen() -> None:
    top = {path.parts[0] for path in tracked()}
    shown = {name for name in top if not name.startswith(".")}
    assert len(shown) <= MOST_ENTRIES, sorted(shown)


def test_the_scripts_are_what_can_be_run() -> None:
    top = [path for path in tracked() if path.suffix == ".py" and len(path.parts) == 1]
    executable = {path.name for path in top if os.access(REPOSITORY / path, os.X_OK)}
    assert executable == set(SCRIPTS)
    assert {path.name for path in top} - executable == {"arts.py", "dataset_factory.py"}
    for path in tracked():
        first_line = (REPOSITORY / path).read_bytes()[:64].split(b"\n")[0]
        runs = bool((REPOSITORY / path).stat().st_mode & stat.S_IXUSR)
        assert runs == first_line.startswith(b"#!"), path
        if runs and path.suffix == ".py":
            assert first_line == b"#!/usr/bin/env python3"


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_imports_no_script(script: str) -> None:
    tree = ast.parse((REPOSITORY / script).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {name.removesuffix(".py") for name in SCRIPTS}


def test_the_import_contracts_hold() -> None:
    checked = lint_imports(REPOSITORY)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("common/files.py", "from metart.museum import artworks", "metart.common.files -> metart.museum.artworks"),
        ("networks/registry.py", "import metart.training.peers", "metart.networks.registry -> metart.training.peers"),
        ("museum/cleaning.py", "from metart.records import splits", "metart.museum.cleaning -> metart.records.splits"),
        ("records/splits.py", "import tensorflow as tf", "metart.records.splits -> tensorflow"),
        (
            "records/splits.py",
            "def f(): from metart.networks import session",
            "metart.records.splits -> metart.networks",
        ),
        ("evaluation/metrics.py", "import convert", "metart.evaluation.metrics -> convert"),
        ("training/peers.py", "from download import main", "metart.training.peers -> download"),
    ],
)
def test_a_wrong_import_breaks_a_contract(module: str, line: str, complaint: str, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "metart", tmp_path / "metart")
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    with open(tmp_path / "metart" / module, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    checked = lint_imports(tmp_path)
    assert checked.returncode == 1
    assert complaint in checked.stdout


def test_a_wing_without_a_place_in_the_order_breaks_a_contract(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "metart", tmp_path / "metart")
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    (tmp_path / "metart" / "utils").mkdir()
    (tmp_path / "metart" / "utils" / "__init__.py").touch()
    checked = lint_imports(tmp_path)
    assert checked.returncode == 1
    assert "utils" in checked.stdout


def test_the_version_is_the_same_everywhere() -> None:
    """In code it stands once; these are the texts that have to repeat it."""
    pattern = re.compile(r"met-art:(\d[\w.]*\d)|app\.kubernetes\.io/version: (\S+)|^version: (\S+)$", re.MULTILINE)
    named: dict[str, set[str]] = {}
    for path in tracked():
        if path.suffix in (".md", ".yaml", ".cff", ".svg") or path.name == "Dockerfile":
            found = pattern.findall((REPOSITORY / path).read_text(encoding="utf-8"))
            named |= {str(path): {"".join(groups) for groups in found}} if found else {}
    assert {"README.md", "Dockerfile", "CITATION.cff", "train-model.yaml", "doc/architecture.svg"} <= set(named)
    assert {path: versions for path, versions in named.items() if versions != {metart.__version__}} == {}
    newest = re.findall(r"^## (\d[\d.]*)", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[0]
    assert newest == metart.__version__
    code = "".join((REPOSITORY / path).read_text(encoding="utf-8") for path in tracked() if path.suffix == ".py")
    assert code.count(f'"{metart.__version__}"') == 1


def test_what_contributing_names_is_there() -> None:
    text = (REPOSITORY / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)` (?:of|in)\s+`([\w/]+\.py)`", text)
    assert len(named) >= 5
    for name, file in named:
        tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
        defined = {getattr(node, "name", "") for node in tree.body}
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            defined |= {target.id for target in targets if isinstance(target, ast.Name)}
        assert name in defined, f"{name} of {file}"
