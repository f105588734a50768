"""The report's page as a reader opens it: from the disk, with no kernel and no network."""

import cv2
import nbformat
import numpy as np
import pytest
from ipywidgets.embed import embed_data
from nbformat import v4

from pneumo_nb import pages
from pneumo_nb.results import overlays, sliders

pytestmark = pytest.mark.browser
VIEW, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"


def draw(position):
    """A picture of its own for each radiograph and channel."""
    black = np.zeros((40, 80, 3), np.uint8)
    places = [(10 + 5 * channel, 20) for channel in range(4)]
    return [overlays.webp(cv2.circle(black.copy(), place, 3 + position, (255, 255, 255))) for place in places]


@pytest.fixture
def report(tmp_path):
    """The page of a notebook with a slider over three channels of three radiographs, two of them kept."""
    panel = sliders.Channels({"first": 0, "second": 1, "third": 2}, draw, kept=2)
    shown = v4.new_output("display_data", data={VIEW: {"model_id": panel.model_id}, "text/plain": "Channels"})
    cells = [
        v4.new_markdown_cell("# 07 A page\n\n$x_l$ and [a link](12_report.ipynb)"),
        v4.new_code_cell("panel", outputs=[shown], execution_count=1),
    ]
    metadata = {"widgets": {STATE: embed_data([panel])["manager_state"]}}
    nbformat.write(v4.new_notebook(cells=cells, metadata=metadata), tmp_path / "07_a.ipynb")
    path = tmp_path / "07_a.html"
    path.write_text(pages.page(tmp_path / "07_a.ipynb", [("contents", "index.html")]), encoding="utf-8")
    return path


def seen(page):
    """The source of the one picture that can be seen."""
    (picture,) = [image for image in page.locator("img").all() if image.is_visible()]
    assert picture.evaluate("image => image.complete && image.naturalWidth") == 80
    return picture.get_attribute("src")


def test_the_slider_and_the_radiograph_move_by_keyboard_with_the_network_off(page, report):
    page.context.set_offline(True)
    page.goto(report.as_uri())
    pictures = [seen(page)]
    slider = page.locator("input[type=range]")
    slider.focus()
    for channel in (1, 2, 3, 3):
        page.keyboard.press("ArrowRight")
        assert page.locator("output").inner_text() == str(channel)
        pictures.append(seen(page))
    assert len(set(pictures)) == 4 and pictures[3] == pictures[4]  # the last channel is the end
    page.locator("select").focus()
    page.keyboard.press("ArrowDown")
    other = seen(page)
    assert other not in pictures and page.locator("select").input_value() == "second"
    page.locator("select").press("ArrowDown")
    assert page.get_by_text("is drawn when it is chosen").is_visible()
    page.locator("select").press("ArrowUp")
    page.locator("input[type=range]").press("Home")
    assert seen(page) not in [*pictures, other]
    assert page.wrong == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []
