"""The checks on notebooks (`notebooks/conftest.py`): each of the ways to fail that nbval lets pass does fail."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(folder: Path, *cells: tuple[str, int | None, list[str]], outputs: Sequence[dict[str, object]] = ()) -> str:
    """pytest's report on a notebook of these cells (source, execution count, tags), each stored with the outputs."""
    shutil.copy(ROOT / "notebooks" / "conftest.py", folder)
    code: list[dict[str, object]] = [
        {
            "cell_type": "code",
            "id": f"cell-{place}",
            "source": source,
            "execution_count": count,
            "metadata": {"tags": tags},
            "outputs": list(outputs),
        }
        for place, (source, count, tags) in enumerate(cells)
    ]
    notebook = {"cells": code, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "try.ipynb").write_text(json.dumps(notebook))
    options = ["-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", "--color=no"]
    command = [sys.executable, "-m", "pytest", *options, str(folder / "try.ipynb")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout


@pytest.mark.root
def test_cells_that_fail_silently_fail(tmp_path: Path) -> None:
    report = run(
        tmp_path, ("!exit 3", 1, []), ("x = 1", 2, ["raises-exception"]), ("x = 2", None, []), ("x = 3", 4, [])
    )
    assert "the cell's command ended with exit status 3" in report
    assert "the cell is tagged raises-exception, and raised nothing" in report
    assert "the notebook was not saved as run from top to bottom" in report
    assert "3 failed, 1 passed" in report


@pytest.mark.root
def test_a_notebook_that_leaves_a_container_behind_fails(tmp_path: Path) -> None:
    quiet = ["nbval-ignore-output"]
    report = run(
        tmp_path,
        ("%load_ext labkit", 1, []),
        ("%docker hub build busybox", 2, quiet),
        ("%docker create --name forgotten -v kept:/data busybox true", 3, quiet),
    )
    assert "the notebook leaves containers or volumes behind: ['/forgotten', 'kept']" in report
    assert "3 passed, 1 error" in report


@pytest.mark.root
@pytest.mark.parametrize(("stored", "result"), [("last", "1 passed"), ("first", "1 failed")])
def test_an_output_that_is_updated_is_compared_as_it_ends(tmp_path: Path, stored: str, result: str) -> None:
    source = "shown = display({'text/plain': 'first'}, raw=True, display_id=True)\n"
    source += "shown.update({'text/plain': 'last'}, raw=True)"
    output: dict[str, object] = {"output_type": "display_data", "data": {"text/plain": [stored]}, "metadata": {}}
    assert result in run(tmp_path, (source, 1, []), outputs=[output])
