import re
import runpy
from base64 import b64encode

import cv2
import nbformat
import numpy as np
import pytest
from ipywidgets import Image, IntSlider, Stack, VBox, jsdlink
from ipywidgets.embed import embed_data
from nbformat import v4

from pneumo_nb import pages, paths

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET = {WIDGET_VIEW: {"model_id": "x"}, "text/plain": "0%|   |"}


@pytest.fixture
def notebook(tmp_path):
    printed = v4.new_output("stream", name="stdout", text="42 <radiographs>\n")
    picture = v4.new_output("display_data", data={"image/png": "iVBORw0KGgo="})
    bar = v4.new_output("display_data", data=WIDGET)
    cells = [
        v4.new_markdown_cell("# 02 A title\n\ninline $x_l$ and\n\n$$H(p, q) = -\\sum_i p_i \\log q_i \\tag{5}$$"),
        v4.new_markdown_cell("[next](12_report.ipynb) and [out](https://doi.org/10.3390/ijerph18179091)"),
        v4.new_code_cell("print(1 < 2)", outputs=[printed, picture, bar], execution_count=1),
    ]
    path = tmp_path / "02_a.ipynb"
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path


def test_a_page_shows_text_code_output_and_pictures(notebook):
    page = pages.page(notebook, [("contents", "index.html")])
    assert page.startswith("<!doctype html>") and "<title>02 A title</title>" in page
    assert "42 &lt;radiographs&gt;" in page and "data:image/png;base64,iVBORw0KGgo=" in page
    assert 'href="12_report.html"' in page and "<a href='index.html'>contents</a>" in page


def test_equations_are_drawn_by_the_browser_itself(notebook):
    page = pages.page(notebook, [])
    assert page.count("<math") == 2 and "$" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)


def test_a_page_asks_no_network_for_anything(notebook):
    page = pages.page(notebook, [])
    fetched = re.findall(r"<(?:script|link|img|iframe|source)[^>]*(?:src|href)=[\"'](?!data:)", page)
    assert fetched == [] and "@import" not in page and "<script" not in page


def test_progress_bars_are_left_out(notebook):
    assert "0%|" not in pages.page(notebook, [])


def test_the_first_page_lists_every_notebook_with_its_state_and_what_it_was_made_with(tmp_path):
    for name, ours in {
        "01_a": {"made": "2021-09-30T11:12:13+00:00", "seconds": 3.2, "failure": ""},
        "02_b": {"made": "2021-09-30T11:13:13+00:00", "seconds": 3.2, "failure": "02_b.ipynb failed: <x>"},
    }.items():
        about = {"pneumo_nb": ours, "papermill": {"parameters": {"EPOCHS": 2} if name == "01_a" else {}}}
        made = v4.new_notebook(cells=[v4.new_markdown_cell(f"# {name} <A>")], metadata=about)
        nbformat.write(made, tmp_path / f"{name}.ipynb")
    first = pages.index("nih & more", [tmp_path / "01_a.ipynb", tmp_path / "02_b.ipynb"])
    assert "01_a &lt;A&gt;" in first and "<td>done in 3 s</td><td>2021-09-30 11:12</td><td>EPOCHS = 2</td>" in first
    assert "02_b.ipynb failed: &lt;x&gt;</td><td>2021-09-30 11:13</td><td>as it stands</td>" in first
    assert "nih &amp; more" in first and "tables.csv" in first and "not a medical device" in first


def test_a_widget_that_moves_by_itself_becomes_a_part_of_the_page(tmp_path):
    slider, stack = IntSlider(max=1), Stack([Image(value=b"a"), Image(value=b"b")], selected_index=0)
    jsdlink((slider, "value"), (stack, "selected_index"))
    both = VBox([slider, stack])
    shown = v4.new_output("display_data", data={WIDGET_VIEW: {"model_id": both.model_id}, "text/plain": "VBox"})
    cells = [v4.new_markdown_cell("# 07 A"), v4.new_code_cell("both", outputs=[shown], execution_count=1)]
    saved = {"application/vnd.jupyter.widget-state+json": embed_data([both])["manager_state"]}
    path = tmp_path / "07_a.ipynb"
    nbformat.write(v4.new_notebook(cells=cells, metadata={"widgets": saved}), path)
    page = pages.page(path, [])
    assert len(re.findall('<input [^>]*type="range"', page)) == 1 and page.count('src="data:image/png;base64,') == 2
    assert re.findall(r"src=[\"'](?!data:)", page) == []


def test_the_readmes_pictures_are_the_figures_of_tagged_cells(tmp_path):
    make = runpy.run_path(str(paths.notebooks() / "pictures" / "make.py"))["make"]
    content = cv2.imencode(".png", np.full((40, 1800, 3), 200, np.uint8))[1].tobytes()
    figure = v4.new_output("display_data", data={"image/png": b64encode(content).decode()})
    tagged = v4.new_code_cell("plot()", outputs=[figure], metadata={"tags": ["picture-claims"]})
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell("1"), tagged]), tmp_path / "12_report.ipynb")
    assert make(tmp_path) == [tmp_path / "pictures" / "claims.jpg"]
    assert cv2.imread(str(tmp_path / "pictures" / "claims.jpg")).shape == (20, 900, 3)
    tagged.outputs = []
    nbformat.write(v4.new_notebook(cells=[tagged]), tmp_path / "12_report.ipynb")
    with pytest.raises(ValueError, match="picture-claims shows no figure"):
        make(tmp_path)
