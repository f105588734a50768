"""The whole road as a user walks it, in processes of their own, at a size that trains in seconds."""

import json
import os
import subprocess
import sys

import pandas as pd

from pneumo_nb import paths

SMALL = {"EPOCHS": 1, "IMAGE_SIZE": 32, "BATCH_SIZE": 32, "LEARNING_RATE": 5e-4}
RUNS = 2 + 8 + 2 + 1 + 2 + 2  # new ones of each notebook from 02 to 06, one seed


def called(*command, home, cwd=None):
    """Run a command from a folder of its own; PNEUMO_NB_HOME keeps it out of the checkout's data and outputs."""
    environment = os.environ | {"PNEUMO_NB_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)], env=environment, cwd=cwd or home, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def small(**more):
    return [part for name, value in (SMALL | more).items() for part in ("-p", name, value)]


def test_the_phantom_from_nothing_to_the_report_and_again_without_training(home):
    """Three notebooks: all of them run on the phantom against their stored outputs, and below on real radiographs."""
    command = ("pneumo_nb", "reproduce", *small(PATIENTS=30, POSITIVES=10, WIDTH=256, HEIGHT=266))
    first = called(*command, "--only", "01,04,12", home=home)
    report = home / "outputs" / "report"
    assert f"report: {report / 'index.html'}" in first.stdout
    records = sorted((home / "outputs" / "runs").glob("*/record.json"))
    assert len(records) == 2
    times = [record.stat().st_mtime_ns for record in records]
    tables = pd.read_csv(report / "tables.csv")
    claims = pd.read_csv(report / "claims.csv")
    assert claims["claim"].tolist() == ["no dropout"]
    assert sorted(page.stem[:2] for page in report.glob("[0-9]*.html")) == ["01", "04", "12"]
    called(*command, "--seeds", "0,1", "--only", "04,12", home=home)
    assert [record.stat().st_mtime_ns for record in records] == times
    again = pd.read_csv(report / "tables.csv")
    assert set(again.loc[again["table"] == 4, "seed"].dropna()) == {0, 1}
    assert again[again["seed"] != 1].reset_index(drop=True).equals(tables)


def test_real_radiographs_from_jpg_to_table_2_without_one_patient_on_both_sides(home, shared, tmp_path):
    source = shared / "data" / "nih-cxr"
    told = called("pneumo_nb", "prepare", source, "--labels", source / "labels.csv", "--name", "nih", home=home).stdout
    assert "200 files found: 200 accepted, 0 rejected" in told and "0 of the" in told
    manifest = pd.read_csv(home / "data" / "prepared" / "nih" / "manifest.csv")
    sides = manifest.groupby("patient_id")["split"].nunique()
    assert (sides == 1).all() and (manifest.groupby("patient_id").size() > 1).sum() == 24
    chosen = ["01", "02", "03", "04", "05", "06", "07", "12"]
    called("pneumo_nb", "reproduce", "--dataset", "nih", "--only", ",".join(chosen), *small(), home=home)
    report = home / "outputs" / "report"
    assert sorted(page.stem[:2] for page in report.glob("[0-9]*.html")) == chosen
    tables = pd.read_csv(report / "tables.csv")
    columns = tables[tables["table"].notna()].groupby(["table", "column"])["source"].agg(set)
    assert len(columns) == 12 and (columns == {"paper", "run"}).all()  # every column of Tables 2-6 has its run
    claims = pd.read_csv(report / "claims.csv")
    assert len(claims) == 5 and (claims["verdict"] == "cannot tell").all()  # one seed decides nothing
    testing = (manifest["split"] == "test").sum()
    runs = tables[tables["source"] == "run"]
    assert runs["key"].nunique() == RUNS and (runs[["tp", "fp", "fn", "tn"]].sum(axis=1) == testing).all()
    # and one notebook by papermill alone, from a folder that has nothing to do with the project
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    notebook = paths.notebooks() / "06_densenet_bottleneck.ipynb"
    options = (*small(), "-p", "DATASET", "nih", "-p", "SCALE_FACTOR", 3, "-p", "LEARNING_RATE", "5e-5")
    called("papermill", notebook, "out.ipynb", *options, home=home, cwd=elsewhere)
    assert (elsewhere / "out.ipynb").is_file()
    records = [json.loads(path.read_text())["settings"] for path in (home / "outputs" / "runs").glob("*/record.json")]
    assert len(records) == RUNS + 3
    assert sum((each["scale_factor"], each["learning_rate"]) == (3, 5e-5) for each in records) == 3


def test_papermill_alone_stops_at_a_wrong_value_in_the_cell_after_the_parameters(home):
    notebook = paths.notebooks() / "02_resnet34_balanced_training.ipynb"
    command = [sys.executable, "-m", "papermill", str(notebook), "out.ipynb", "-p", "EPOCHS", "zero"]
    environment = os.environ | {"PNEUMO_NB_HOME": str(home)}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and "epochs = 'zero'" in done.stderr
    assert not (home / "outputs").exists()
