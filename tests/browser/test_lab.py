"""Notebook 07 as its reader uses it: in JupyterLab, run from top to bottom, the channel slider under the keyboard."""

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import nbformat
import pytest
from nbformat import v4

from pneumo_nb import paths, prepare
from pneumo_nb.settings import PhantomSettings

pytestmark = pytest.mark.browser
SMALL = {"IMAGE_SIZE": 32, "EPOCHS": 1, "BATCH_SIZE": 16, "DEPTH": 13, "GROWTH_RATE": 4, "CHOSEN_ON": 4}
PHANTOM = PhantomSettings(patients=12, positives=6, width=128, height=133)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Addresses in a JupyterLab: notebook 07 as it is committed, and small.ipynb for a small phantom."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PNEUMO_NB_HOME", str(home))
        prepare.phantom("phantom", PHANTOM)
        patch.setenv("JUPYTER_CONFIG_DIR", str(home / "config"))
        patch.setenv("JUPYTER_DATA_DIR", str(home / "jupyter"))
        environment = dict(os.environ)
    folder = home / "notebooks"
    folder.mkdir()
    committed = nbformat.read(paths.notebooks() / "07_interpretability.ipynb", as_version=4)
    nbformat.write(committed, folder / "committed.ipynb")
    small = committed
    small.metadata.pop("widgets", None)
    for cell in small.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    given = "\n".join(f"{name} = {value}" for name, value in SMALL.items())
    small.cells.insert(2, v4.new_code_cell(given))  # behind the parameters, as papermill does
    nbformat.write(small, folder / "small.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port, token = free.getsockname()[1], secrets.token_hex()  # else anyone on this machine could run code
    options = [f"--ServerApp.root_dir={folder}", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    options += ["--no-browser", "--allow-root", "--LabApp.expose_app_in_browser=True"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment | {"JUPYTER_TOKEN": token}}
    subprocess.run([sys.executable, "-m", "jupyter", "trust", folder / "committed.ipynb"], check=True, **quiet)
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], **quiet)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server)
        yield lambda name: f"http://127.0.0.1:{port}/lab/tree/{name}?reset&token={token}"
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


def move(page, seen):
    """Press the right arrow on the channel slider, and note the picture that comes."""
    channel = int(page.locator(".widget-readout").inner_text())
    page.keyboard.press("ArrowRight")
    seen.append(picture(page, seen))
    assert page.locator(".widget-readout").inner_text() == str(channel + 1)


def moved_twice(page):
    """The channel slider's handle, and the pictures that the first two presses of the right arrow lead through."""
    handle = page.locator(".widget-slider .noUi-handle")
    handle.wait_for(timeout=120_000)
    seen = [picture(page)]
    handle.focus()
    move(page, seen)
    move(page, seen)
    return handle, seen


def test_the_channel_slider_moves_the_picture_and_another_layer_is_computed(page, lab):
    page.goto(lab("small.ipynb"))
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.wait_for_function("window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel", timeout=60_000)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    handle, seen = moved_twice(page)
    choose(page, "layer", "features.dense1")
    seen.append(picture(page, seen))
    handle.focus()
    move(page, seen)
    page.wait_for_function(
        "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].every(each => /[0-9]/.test(each.innerText))",
        timeout=180_000,
    )
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts() == []
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0


def test_the_committed_notebook_moves_as_it_was_saved(page, lab):
    page.goto(lab("committed.ipynb"))
    _, seen = moved_twice(page)
    (_, _, third, fourth) = page.locator(".widget-dropdown select").nth(2).locator("option").all_inner_texts()[:4]
    for radiograph in (third, fourth):
        choose(page, "radiograph", radiograph)
        seen.append(picture(page, seen))
        assert page.locator(".widget-readout").inner_text() == "2"
