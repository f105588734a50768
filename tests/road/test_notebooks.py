"""The structure of the committed notebooks; `pytest --nbval-lax` in `make test` compares their stored outputs."""

import ast
import re
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from pneumo_nb import paper, settings

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TRAINING = [path for path in NOTEBOOKS if "02" <= path.name[:2] <= "07"]
WIDGET = "application/vnd.jupyter.widget"
STAGES = settings.PhantomSettings, settings.PrepareSettings, settings.TrainSettings


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
    figures = [data for data in outputs if re.match(r"<\w+ size \d+x|<IPython.*\.Image ", data.get("text/plain", ""))]
    assert figures and all(data.keys() & {"image/png", "image/jpeg"} for data in figures)


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


def declared(path):
    """What a notebook's parameters cell says, by papermill, which skips a line that it cannot read."""
    return {name: ast.literal_eval(entry["default"]) for name, entry in papermill.inspect_notebook(str(path)).items()}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_papermill_can_read_every_parameter(path):
    (cell,) = tagged(nbformat.read(path, as_version=4), "parameters")
    names = [statement.targets[0].id for statement in ast.parse(cell.source).body]
    assert list(declared(path)) == names  # it skips a line with an "=" in its comment


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_a_notebook_that_trains_declares_what_it_is_about_and_can_be_given_the_rest(path):
    here = declared(path)
    (cell,) = [cell for cell in code(nbformat.read(path, 4)) if "runs.set_up(" in cell.source]
    own = re.findall(r'"([A-Z_]+)"', cell.source.splitlines()[0])
    assert 10 <= len(here) <= 14
    settings.refuse_unknown(here, own)
    for name in own:  # only what is needed
        with pytest.raises(ValueError, match=name):
            settings.refuse_unknown(here, set(own) - {name})


def test_notebooks_that_train_share_their_smoke_settings_but_for_dropouts_longer_training():
    every = [declared(path) for path in TRAINING]
    shared = set(every[0]).intersection(*every)
    assert {"SEEDS", "SCALE_FACTOR", "STEM", "IMAGE_SIZE", "EPOCHS", "BATCH_SIZE", "LEARNING_RATE"} <= shared
    for path, one in zip(TRAINING, every, strict=True):
        differing = {name for name in shared if one[name] != every[0][name]}
        assert differing == ({"EPOCHS", "LEARNING_RATE"} if path.stem == "04_densenet_dropout" else set())


@pytest.mark.parametrize("path", [NOTEBOOKS[1], *TRAINING], ids=lambda path: path.stem)
def test_all_settings_in_force_are_shown_and_compared(path):
    (cell,) = [cell for cell in code(nbformat.read(path, 4)) if "settings.in_force(" in cell.source]
    assert "nbval-check-output" in cell.metadata.tags


def test_a_cell_can_be_run_twice_no_capital_name_is_made_after_the_parameters(notebook):
    made = [
        node.id
        for cell in code(notebook)[1:]
        for node in ast.walk(ast.parse(re.sub(r"^%", "#", cell.source, flags=re.MULTILINE)))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id.isupper()
    ]
    assert not made


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
def test_parameter_files_name_settings_and_parameters(file):
    values = yaml.safe_load(file.read_text())
    settings.refuse_unknown(values, set().union(*(declared(path) for path in NOTEBOOKS)))
    for stage in STAGES:
        stage.from_parameters(values)
    assert settings.is_phantom(values["DATASET"])


def test_the_study_has_the_papers_patients_and_split_and_five_seeds():
    values = yaml.safe_load((FOLDER / "params" / "study.yaml").read_text())
    phantom, how, train = (stage.from_parameters(values) for stage in STAGES)
    assert (phantom.patients, phantom.positives) == (paper.IMAGES, paper.POSITIVES)
    assert (how.split, how.validation_fraction) == ("paper", 0) and len(settings.seeds(values["SEEDS"])) >= 5
    assert train.epoch_reported == "last" and train.scale_factor == paper.SCALE_FACTORS[1]


def test_the_papers_parameters_leave_nothing_of_how_radiographs_are_prepared_to_the_smoke_run():
    values = yaml.safe_load((FOLDER / "params" / "paper.yaml").read_text())
    phantom, how, _ = STAGES
    as_reproduced = how.from_parameters(declared(NOTEBOOKS[1]) | settings.SMOKE | values)
    assert as_reproduced == how.of(split="paper") and settings.SMOKE.keys() <= values.keys()
    assert (phantom.from_parameters(values).width // as_reproduced.downsize) == 694


def test_notebook_01_makes_the_smoke_phantom_as_the_other_notebooks_would():
    given = declared(NOTEBOOKS[1])
    phantom, how, _ = STAGES
    assert phantom.from_parameters(given) == phantom()
    assert how.from_parameters(given) == how.from_parameters(settings.SMOKE)
