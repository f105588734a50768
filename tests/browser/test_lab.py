"""Notebook 07 as its reader uses it: in JupyterLab, run from top to bottom, the channel slider under the keyboard."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import nbformat
import papermill.parameterize
import pytest

from pneumo_nb import paths, prepare
from pneumo_nb.settings import PhantomSettings

pytestmark = pytest.mark.browser
SMALL = {"IMAGE_SIZE": 32, "EPOCHS": 1, "BATCH_SIZE": 16, "DEPTH": 13, "CHOSEN_ON": 4, "PICTURE": 60, "KEPT": 2}
SMALL |= {"FAILURES": 2, "STEPS": 2}
PHANTOM = PhantomSettings(patients=20, positives=8, width=128, height=133)


@pytest.fixture
def lab(home, tmp_path):
    """The address of a JupyterLab that serves notebook 07 with small settings and a small phantom of its own."""
    prepare.phantom("phantom", PHANTOM)
    notebook = nbformat.read(paths.notebooks() / "07_interpretability.ipynb", as_version=4)
    notebook = papermill.parameterize.parameterize_notebook(notebook, SMALL)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("widgets", None)
    folder = tmp_path / "notebooks"
    folder.mkdir()
    nbformat.write(notebook, folder / "07.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [f"--ServerApp.root_dir={folder}", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    options += ["--IdentityProvider.token=", "--no-browser", "--allow-root", "--LabApp.expose_app_in_browser=True"]
    jupyter = {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_DATA_DIR": str(tmp_path / "data")}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        env=os.environ | jupyter,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/api/status", server)
        yield address
    finally:
        server.terminate()
        server.wait(20)


def _wait_for(url, server, seconds=60):
    for _ in range(seconds * 4):
        assert server.poll() is None, "JupyterLab stopped"
        try:
            urllib.request.urlopen(url, timeout=5)
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
        else:
            return
    pytest.fail("JupyterLab does not answer")


def choose(page, description, option):
    page.locator(f".widget-dropdown:has(label:text-is('{description}')) select").select_option(label=option)


def picture(page, other_than=()):
    """The picture under the slider, as soon as it is none of those seen before."""
    page.wait_for_function(
        "seen => { const shown = [...document.querySelectorAll('img.widget-image')].filter(image => image.offsetWidth);"
        " return shown.length === 1 && shown[0].naturalWidth && !seen.includes(shown[0].src); }",
        arg=list(other_than),
        timeout=60_000,
    )
    (shown,) = [image for image in page.locator("img.widget-image").all() if image.is_visible()]
    return shown.get_attribute("src")


def test_the_channel_slider_moves_the_picture_and_the_layer_computes_new_ones(page, lab):
    page.goto(f"{lab}/lab/tree/07.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.wait_for_function("window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel", timeout=60_000)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    handle = page.locator(".widget-slider .noUi-handle")
    handle.wait_for(timeout=120_000)
    seen = [picture(page)]
    handle.focus()
    for channel in range(1, 4):
        page.keyboard.press("ArrowRight")
        seen.append(picture(page, seen))
        assert page.locator(".widget-readout").inner_text() == str(channel)
    choose(page, "layer", "features.dense1")
    seen.append(picture(page, seen))
    page.wait_for_function(
        "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].every(prompt => !/[*]/.test(prompt.innerText))",
        timeout=180_000,
    )
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts() == []
    assert page.locator("img.jp-RenderedImage, .jp-RenderedImage img").count() > 5
