"""The structure of the committed notebooks; `pytest --nbval-lax` in `make test` compares their stored outputs."""

import ast
import re
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from pneumo_nb import settings

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
WIDGET = "application/vnd.jupyter.widget"


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag):
    return [cell for cell in code(notebook) if tag in cell.metadata.get("tags", [])]


def test_there_are_numbered_notebooks_and_no_others():
    assert len(NOTEBOOKS) >= 3 and all(re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem) for path in NOTEBOOKS)


def test_it_was_executed_from_top_to_bottom_without_error_or_stderr(notebook):
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


def test_every_figure_is_stored_as_a_picture(notebook):
    outputs = [output.get("data", {}) for cell in code(notebook) for output in cell.outputs]
    figures = [data for data in outputs if data.get("text/plain", "").startswith("<Figure")]
    assert figures and all("image/png" in data for data in figures)


def test_deterministic_cells_are_tagged_and_hold_outputs(notebook):
    compared = tagged(notebook, "nbval-check-output")
    assert compared and all(cell.outputs for cell in compared)


def test_the_first_cell_says_what_it_is_about(notebook):
    head = notebook.cells[0].source
    assert re.match(r"# \d\d ", head)
    assert all(f"**{word}" in head for word in ("Claim.", "Reproduces.", "Needs", "Time.")) and "**Makes**" in head


def test_one_parameters_cell_of_commented_literals_comes_before_all_other_code(notebook):
    cells = tagged(notebook, "parameters")
    assert len(cells) == 1 and cells[0] is code(notebook)[0]
    for statement, line in zip(ast.parse(cells[0].source).body, cells[0].source.splitlines(), strict=True):
        assert isinstance(statement, ast.Assign) and statement.targets[0].id.isupper()
        ast.literal_eval(statement.value)
        assert "  # " in line


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_papermill_can_read_every_parameter(path):
    (cell,) = tagged(nbformat.read(path, as_version=4), "parameters")
    names = [statement.targets[0].id for statement in ast.parse(cell.source).body]
    assert list(papermill.inspect_notebook(str(path))) == names  # it skips a line with an "=" in its comment


def test_no_line_of_code_runs_out_of_the_page(notebook):
    bodies = [cell.source for cell in code(notebook) if "parameters" not in cell.metadata.get("tags", [])]
    assert not [line for body in bodies for line in body.splitlines() if len(line) > 100]


def test_imports_stand_in_one_cell_without_stars(notebook):
    importing = [cell for cell in code(notebook) if re.search(r"^(import|from) ", cell.source, flags=re.MULTILINE)]
    assert importing == [code(notebook)[1]] and "import *" not in importing[0].source
    assert importing[0].source.startswith("%matplotlib inline\n")  # else a Figure shows as its name


def test_it_ends_with_the_gaps_and_with_things_to_try(notebook):
    headings = re.findall(r"^## (.*)", "\n".join(cell.source for cell in notebook.cells), flags=re.MULTILINE)
    assert headings[-2:] == ["Where the paper is silent", "Try it"]
    assert any("the paper and this run" in heading.lower() for heading in headings)


def test_every_link_leads_to_a_notebook_that_is_there(notebook):
    links = re.findall(r"\]\(([^)]+\.ipynb)\)", "\n".join(cell.source for cell in notebook.cells))
    assert links and all((FOLDER / link).is_file() for link in links)


def test_stored_outputs_are_small_and_name_no_place_on_a_disk(notebook):
    text = nbformat.writes(notebook)
    assert len(text) < 1_000_000
    assert not re.search(r"/(?:home|root|Users|tmp|work|private)/|[A-Z]:\\\\", text)


def test_a_widget_that_is_shown_is_stored_with_its_state(notebook):
    views = [output.get("data", {}).get(f"{WIDGET}-view+json") for cell in code(notebook) for output in cell.outputs]
    models = notebook.metadata.get("widgets", {}).get(f"{WIDGET}-state+json", {}).get("state", {})
    assert all(view["model_id"] in models for view in views if view)  # else it is dead when the notebook is opened


def test_each_equation_of_the_paper_appears_once_in_the_series():
    text = "\n".join(cell.source for path in NOTEBOOKS for cell in nbformat.read(path, as_version=4).cells)
    numbers = re.findall(r"\\tag\{(\d)\}|\$ \((3)\)", text)
    assert sorted("".join(pair) for pair in numbers) == list("1234567")


@pytest.mark.parametrize("file", sorted((FOLDER / "params").glob("*.yaml")), ids=lambda path: path.stem)
def test_parameter_files_name_parameters_that_notebooks_have(file):
    values = yaml.safe_load(file.read_text())
    known = set().union(*(papermill.inspect_notebook(str(path)) for path in NOTEBOOKS))
    assert set(values) <= known
    for model in (settings.PhantomSettings, settings.PrepareSettings, settings.TrainSettings):
        model.from_parameters(values)


def test_every_setting_can_be_turned_in_a_notebook():
    known = set().union(*(papermill.inspect_notebook(str(path)) for path in NOTEBOOKS))
    fields = {
        name.upper()
        for model in (settings.PhantomSettings, settings.PrepareSettings, settings.TrainSettings)
        for name in model.model_fields
    }
    assert fields - known == {"MODEL", "SEED"}  # the notebook is the model; SEEDS holds the seeds


def test_notebook_defaults_of_the_phantom_are_the_smoke_settings():
    values = papermill.inspect_notebook(str(FOLDER / "01_dataset_preparation.ipynb"))
    given = {name: ast.literal_eval(entry["default"]) for name, entry in values.items()}
    assert settings.PhantomSettings.from_parameters(given) == settings.PhantomSettings()
