import json

import pytest
import torch
import toy

from pneumo_nb import dataset, metrics, models, paths, runs, train
from pneumo_nb.settings import TrainSettings

CPU = torch.device("cpu")
TINY = {"image_size": 32, "channels": 1, "epochs": 1, "batch_size": 8}


def settings(**more):
    return TrainSettings.of(**(TINY | more))


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    """These tests are about what is stored, not about the network."""
    monkeypatch.setattr(models, "build", toy.build)


@pytest.fixture
def data(home):
    return dataset.load(toy.prepared(), 32)


def run(data, **more):
    return runs.load_or_train(settings(**more), data, CPU, progress=False)


def test_a_run_leaves_its_files_and_a_record_that_agrees_with_them(data):
    done = run(data)
    assert sorted(file.name for file in paths.runs(done.key).iterdir()) == [
        "history.csv", "predictions.csv", "record.json", "weights.safetensors",
    ]  # fmt: skip
    on_test = done.predictions.query("split == 'test'")
    assert done.counts == metrics.Counts.of(on_test["label"], on_test["probability"] >= 0.5)
    assert len(done.predictions) == 24 and len(done.history) == 1
    assert done.settings == settings() and done.record["dataset"]["hash"] == data.hash
    assert done.record["seconds"] > 0 and done.record["images_per_second"] > 0 and done.record["versions"]["torch"]


def test_a_finished_run_is_loaded_and_not_trained_again(data, monkeypatch):
    first = run(data)
    monkeypatch.setattr(train, "fit", lambda *_: pytest.fail("trained again"))
    assert run(data).record == first.record


def test_the_stored_network_gives_the_stored_predictions(data):
    done = run(data)
    feed = dataset.Feed(data, CPU, 1, "none")
    again = train.predict(done.network(), feed, data.part("test"))
    assert done.predictions.query("split == 'test'")["probability"].to_numpy() == pytest.approx(again, abs=1e-6)


def test_two_trainings_leave_the_same_bytes(data, home, monkeypatch):
    first = run(data)
    files = ("weights.safetensors", "history.csv", "predictions.csv")
    before = {file: (paths.runs(first.key) / file).read_bytes() for file in files}
    (paths.runs(first.key) / "record.json").unlink()
    assert {file: (paths.runs(run(data).key) / file).read_bytes() for file in files} == before


def test_every_setting_and_the_dataset_change_the_key():
    base = TrainSettings()
    changed = {
        "epochs": 2,
        "seed": 1,
        "scale_factor": 1,
        "loss": "none",
        "channels": 1,
        "flip": 0,
        "deterministic": False,
    }
    keys = {runs.key(base.model_copy(update={name: value}), "a") for name, value in changed.items()}
    keys |= {runs.key(base, "a"), runs.key(base, "b")}
    assert len(keys) == len(changed) + 2
    assert runs.key(TrainSettings.of(epochs="40"), "a") == runs.key(base, "a")


def test_a_run_that_is_not_there_is_refused(home):
    for name in ("", "0123", "../.."):
        with pytest.raises(ValueError, match="no finished run"):
            runs.load(name)


def test_devices_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runs.device("auto") == CPU == runs.device("cpu")
    with pytest.raises(ValueError, match="no GPU"):
        runs.device("cuda")
    with pytest.raises(ValueError, match="'tpu'.*auto, cpu or cuda"):  # noqa: RUF043
        runs.device("tpu")


def test_tables_hold_the_papers_columns_and_every_run(data):
    plain, balanced, other = run(data, scale_factor=1), run(data, scale_factor=5), run(data, scale_factor=3)
    tables = runs.tables(data.hash)
    assert (tables["source"] == "paper").sum() == 12
    mine = tables[tables["source"] == "run"].set_index("key")
    assert mine.loc[plain.key, "column"] == "ResNet34, n = 1" and mine.loc[balanced.key, "table"] == 2
    assert mine.loc[other.key, "column"] == "ResNet34, n = 3" and mine["table"].isna().sum() == 1
    assert mine["tp"].tolist() == [runs.load(key).counts.tp for key in mine.index]
    assert runs.tables("another dataset")["source"].unique().tolist() == ["paper"]


def test_a_protocol_names_the_departures_from_the_paper_only():
    assert runs.protocol(TrainSettings.of(seed=3, scale_factor=1)) == "paper"
    assert runs.protocol(settings()) == "channels=1, image_size=32, epochs=1, batch_size=8"


def test_nothing_half_written_counts_as_a_run(data, monkeypatch):
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        broken.setattr(runs.json, "dumps", lambda *_, **__: 1 / 0)
        run(data, seed=5)
    assert runs.finished(data.hash) == []
    assert json.loads((paths.runs(run(data, seed=5).key) / "record.json").read_text())["settings"]["seed"] == 5


def test_a_run_fits_only_its_own_radiographs(data, home):
    done = run(data)
    done.check_fits(data)
    with pytest.raises(ValueError, match="trained at 32 x 32 pixels; the radiographs here are 48 x 48"):
        done.check_fits(dataset.load("toy", 48))
    with pytest.raises(ValueError, match="trained on 'toy', which is not this 'other'"):
        done.check_fits(dataset.load(toy.prepared("other", seed=3), 32))
