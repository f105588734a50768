"""Runs kept without weights: written from run folders, and found by their keys where there are no folders."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import toy

from pneumo_nb import paths
from pneumo_nb.results import tables
from pneumo_nb.settings import TrainSettings
from pneumo_nb.train import loop, reference, runs, sweep

CPU = torch.device("cpu")


def settings(**more):
    return TrainSettings.of(**({"image_size": 32, "channels": 1, "epochs": 2, "batch_size": 8} | more))


@pytest.fixture
def trained(trained):
    return [runs.load(key) for key in trained]


@pytest.fixture
def data(trained):
    return toy.load()


@pytest.fixture
def kept(trained):
    """The runs of `trained`, written to the reference `study`; their folders are gone."""
    measured = [(run, run.predictions, run.history) for run in trained]
    reference.write("study", trained, "Made by one command.\n", tables=pd.DataFrame({"p": [0.1 + 0.2]}))
    shutil.rmtree(paths.runs())
    return measured


def test_a_run_of_a_reference_is_found_by_its_key_with_all_its_numbers(data, kept, monkeypatch):
    monkeypatch.setattr(loop, "fit", lambda *_: pytest.fail("trained again"))
    for before, predictions, history in kept:
        run = runs.load_or_train(before.settings, data, CPU)
        assert (run.key, run.record, run.counts) == (before.key, before.record, before.counts)
        pd.testing.assert_frame_equal(run.predictions, predictions, check_exact=True)
        pd.testing.assert_frame_equal(run.history, history, rtol=1e-5, check_dtype=False)
    assert [run.key for run in runs.finished(data.hash)] == sorted(before.key for before, *_ in kept)
    assert sweep.train_all([settings(seed=1)], data, CPU)[0].reference == "study"
    assert (tables.on(data.hash)["source"] == "run").sum() == len(kept)


def test_a_reference_holds_no_weights_and_a_run_is_trained_where_they_are_asked_for(data, kept):
    run = runs.load(kept[0][0].key)
    with pytest.raises(ValueError, match=r"reference/study, which holds no weights: ask .* weights=True") as said:
        run.network()
    assert "\n" not in str(said.value)
    (again,) = sweep.train_all([run.settings], data, CPU, weights=True)
    assert again.network() and runs.load(run.key).reference == "" and again.counts == run.counts


def test_equal_runs_give_equal_bytes_in_any_order_and_at_any_time(trained):
    def content():
        return {file.name: file.read_bytes() for file in reference.folder("study").iterdir()}

    reference.write("study", trained)
    first = content()
    assert set(first) == {"records.json", "images.csv.xz", "predictions.csv.xz", "history.csv.xz", "README.md"}
    reference.write("study", trained[::-1])
    assert content() == first
    shutil.rmtree(reference.folder("study"))
    reference.write("study", trained[1:])
    shutil.rmtree(paths.runs(trained[1].key))
    reference.write("study", trained[:1])  # what landed before stays
    assert content() == first


def test_the_tables_beside_are_rounded(kept):
    assert (reference.folder("study") / "tables.csv").read_text() == "p\n0.3\n"
    assert (reference.folder("study") / "README.md").read_text() == "Made by one command.\n"


def test_the_truth_comes_from_the_dataset_else_from_the_reference_else_it_is_empty(trained, data):
    run, manifest = trained[0], paths.prepared("toy") / "manifest.csv"
    assert (run.truth() == "").all(axis=None) and len(run.truth()) == 24
    known = pd.read_csv(manifest, dtype=str, keep_default_na=False)
    known["stage"], known["profusion"] = "I", np.where(known["label"] == "1", "1 1 0 1 0 0", "")
    known.to_csv(manifest, index=False)
    told = run.truth()
    assert list(told.columns) == ["stage", "letter", "profusion", "large"] and (told["stage"] == "I").all()
    assert told.loc["r3", "profusion"] == "1 1 0 1 0 0" and told.loc["r3", "letter"] == ""
    reference.write("study", trained)
    shutil.rmtree(paths.runs())
    shutil.rmtree(paths.prepared("toy"))
    pd.testing.assert_frame_equal(runs.load(run.key).truth(), told)
    assert len(run.truth()) == 0  # it knows neither


def test_runs_of_another_format_are_not_found_and_make_room(trained, data, monkeypatch):
    reference.write("study", trained)
    shutil.rmtree(paths.runs())
    monkeypatch.setattr(runs, "RUN_FORMAT", runs.RUN_FORMAT + 1)
    assert runs.finished(data.hash) == []
    with pytest.raises(ValueError, match="this version reads and trains format"):
        runs.load(trained[0].key)
    reference.write("study", sweep.train_all([settings()], data, CPU))
    assert len(reference.records()) == 1


def test_what_does_not_fit_together_is_refused_and_nothing_is_written(trained):
    record = paths.runs(trained[0].key) / "record.json"
    record.write_text(record.read_text().replace('"tp": ', '"tp": 7'))
    with pytest.raises(ValueError, match=rf"run {trained[0].key}: its record says"):
        reference.write("study", [runs.load(trained[0].key)])
    with pytest.raises(ValueError, match=r"reference '\.\./x' .*: small letters"):
        reference.write("../x", trained)
    assert not reference.folder("").exists()


def test_a_damaged_reference_is_named(kept, data):
    (reference.folder("study") / "records.json").write_text("{")
    with pytest.raises(ValueError, match=r"records.json of 'study' is damaged"):
        runs.finished(data.hash)


def test_two_hundred_runs_of_140_predictions_would_take_less_than_three_megabytes(trained):
    random, one = np.random.default_rng(0), trained[0]
    many = []
    for number in range(20):
        key = f"{number:016x}"
        copied = paths.runs(key)
        shutil.copytree(paths.runs(one.key), copied)
        noise = random.random(140, dtype=np.float32)
        ids = [f"r{index:015x}" for index in range(140)]
        pd.DataFrame({"image_id": ids, "patient_id": ids, "split": "test", "label": (noise >= 0.5).astype(int)}).assign(
            probability=noise
        ).to_csv(copied / "predictions.csv", index=False)
        positives = int((noise >= 0.5).sum())
        test = {"tp": positives, "fp": 0, "fn": 0, "tn": 140 - positives}
        record = json.loads((copied / "record.json").read_text()) | {"key": key, "test": test}
        (copied / "record.json").write_text(json.dumps(record))
        many.append(runs.load(key))
    folder = reference.write("study", many)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3e6 / 10
