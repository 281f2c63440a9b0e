"""doc/demo.ipynb: the five commands of the README, for a reader without a machine of their own."""

import json
import os
from pathlib import Path
import re
import subprocess
import sys
import types
from typing import Any

import pytest
from test_readme import DEMO, ROOT, commands, the_short_way

NOTEBOOK = json.loads((ROOT / "doc" / "demo.ipynb").read_text(encoding="utf-8"))
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
SHELL = re.compile(r'%%bash(?: -s "\$(\w+)")?\n(.*)', re.DOTALL)
ENTER = "cd met-art && . .venv/bin/activate\n"


def test_it_is_a_notebook_without_output() -> None:
    """With what version 4.5 of the format asks of cells."""
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    identifiers = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(identifiers)) == len(identifiers)
    for cell in NOTEBOOK["cells"]:
        assert set(cell) - {"execution_count", "outputs"} == {"cell_type", "id", "metadata", "source"}
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None


def test_its_commands_are_the_five_of_the_readme() -> None:
    """Which tests/test_readme.py runs."""
    shells = [found[2] for cell in CELLS if (found := SHELL.fullmatch(cell)) and found[2].startswith(ENTER)]
    ours = [command for shell in shells for command in commands(shell.removeprefix(ENTER))]
    assert ours == list(commands(the_short_way().text))


def is_given(cell: str, values: dict[str, Any]) -> bool:
    """Whether a cell only sets what a reader enters."""
    found = re.fullmatch(r"(\w+) = .*# @param .*", cell)
    return found is not None and found[1] in values


def run_cells(folder: Path, values: dict[str, Any]) -> list[str]:
    """Runs the code cells as Jupyter does, as far as these need it; returns what each printed."""
    printed = []
    for cell in CELLS:
        if found := SHELL.fullmatch(cell):
            arguments = [str(values[found[1]])] if found[1] else []
            process = subprocess.run(
                ["bash", "-s", *arguments], input=found[2], cwd=folder, capture_output=True, text=True
            )
            assert process.returncode == 0, f"{cell}\n{process.stdout}\n{process.stderr}"
            printed.append(process.stdout)
        elif not (cell.startswith("%load_ext tensorboard\n") or is_given(cell, values)):
            exec(cell, values)
    return printed


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a clone and an environment of its own to the answers; only the last, TensorBoard, is for eyes."""
    shown = []
    display = types.ModuleType("IPython.display")
    display.Image = lambda path: shown.append((tmp_path / path).stat().st_size)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    folders = [folder for folder in os.environ["PATH"].split(os.pathsep) if folder != str(Path(sys.executable).parent)]
    own = tmp_path / "own"
    subprocess.run([sys.executable, "-m", "venv", own], check=True)
    monkeypatch.setenv("PATH", os.pathsep.join([str(own / "bin"), *folders]))
    printed = run_cells(tmp_path, {"repository": ROOT})
    assert shown and min(shown) > 1000
    (top_1,) = (float(value) for text in printed for value in re.findall(r"top-1 ([\d.]+) on \d+ ", text))
    assert top_1 > 0.6
    assert {line for line in DEMO.splitlines() if "pictures for training" in line} <= {
        line for text in printed for line in text.splitlines()
    }
