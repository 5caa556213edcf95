"""The first notebook as people see it: in JupyterLab, in a browser, run from top to bottom."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from tests.browser.jupyter import chromium, jupyterlab, open_notebook, run_all
from tests.support.daemon import Daemon, processes

pytestmark = [pytest.mark.root, pytest.mark.browser, pytest.mark.timeout(240)]

NOTEBOOK = "01-first-container.ipynb"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The notebook in JupyterLab, its kernel idle, an engine of its own behind it. Nothing of it is left after."""
    folder = tmp_path_factory.mktemp("browser")
    daemon = Daemon(folder / "engine")
    daemon.start()
    try:
        with jupyterlab(folder, {"LABKIT_HOST": daemon.host}) as lab, chromium() as browser:
            yield open_notebook(browser, lab, NOTEBOOK)
    finally:
        daemon.stop()
    assert daemon.left() == []
    assert processes(str(folder)) == []


@pytest.fixture(scope="module")
def errors(page: Page) -> list[str]:
    """What goes wrong in the page from here on."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


def test_all_cells_run(page: Page, errors: list[str]) -> None:
    cells = run_all(page)
    assert [cell["count"] for cell in cells] == list(range(1, len(cells) + 1))
    wrong = [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    assert wrong == []
    assert errors == []


def test_the_trace_shows_as_a_tree_that_unfolds(page: Page) -> None:
    tree = page.locator(".labkit-explain").last
    tree.scroll_into_view_if_needed()
    process = tree.locator(".labkit-process", has_text="between its fork and its exec")
    operation = process.locator(".labkit-operation", has_text="PivotRoot:")
    call = operation.locator("code", has_text="pivot_root(")
    process.locator("summary").first.click()
    assert operation.is_visible()
    assert not call.is_visible()
    operation.locator("summary").click()
    assert call.inner_text() == 'pivot_root(".", ".") = 0'
    assert call.is_visible()


def test_the_tree_reads_in_the_light_and_in_the_dark_theme(page: Page) -> None:
    """It brings no colour of its own: its text is dark on light, and light on dark."""
    assert max(text_colour(page)) < 100
    page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
    assert min(text_colour(page)) > 200


def text_colour(page: Page) -> list[int]:
    """Red, green and blue of an operation's text, 0 to 255."""
    operation = page.locator(".labkit-explain .labkit-operation").last
    colour: str = operation.evaluate("element => getComputedStyle(element).color")
    return [int(number) for number in re.findall(r"\d+", colour)[:3]]
