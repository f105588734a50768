import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import toy
from disks import filled, read_only
from safetensors.torch import save_file

from pneumo_nb import metrics, paths, prepare
from pneumo_nb.results import tables
from pneumo_nb.settings import SMOKE, PhantomSettings, PrepareSettings, TrainSettings
from pneumo_nb.train import dataset, loop, models, runs

CPU = torch.device("cpu")
TINY = {"image_size": 32, "channels": 1, "epochs": 2, "batch_size": 8}


def settings(**more):
    return TrainSettings.of(**(TINY | more))


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    """These tests are about what is stored, not about the network."""
    monkeypatch.setattr(models, "build", toy.build)


@pytest.fixture
def data(home):
    return toy.load(toy.prepared())


@pytest.fixture
def done(trained):
    return runs.load(trained[0])


@pytest.fixture
def trained_on(done):
    return toy.load()


def run(data, **more):
    return runs.load_or_train(settings(**more), data, CPU, progress=False)


def test_a_run_leaves_its_files_and_a_record_that_agrees_with_them(done, trained_on):
    assert sorted(file.name for file in paths.runs(done.key).iterdir()) == [
        "history.csv", "predictions.csv", "record.json", "weights.safetensors",
    ]  # fmt: skip
    on_test = done.predictions.query("split == 'test'")
    assert done.counts == metrics.Counts.of(on_test["label"], on_test["probability"] >= 0.5)
    assert len(done.predictions) == 24 and len(done.history) == 2
    assert done.settings == settings() and done.record["dataset"]["hash"] == trained_on.hash
    assert done.record["seconds"] > 0 and done.record["images_per_second"] > 0 and done.record["versions"]["torch"]


def test_the_stored_network_gives_the_stored_predictions(done, trained_on):
    feed = dataset.Feed(trained_on, CPU, 1, "none")
    again = loop.predict(done.network(), feed, trained_on.part("test"))
    assert done.predictions.query("split == 'test'")["probability"].to_numpy() == pytest.approx(again, abs=1e-6)


def test_a_run_without_its_record_is_not_finished_and_is_trained_again_to_the_same_bytes(done, trained, trained_on):
    files = ("weights.safetensors", "history.csv", "predictions.csv")
    before = {file: (paths.runs(done.key) / file).read_bytes() for file in files}
    (paths.runs(done.key) / "record.json").unlink()
    assert [run.key for run in runs.finished(trained_on.hash)] == trained[1:]
    assert {file: (paths.runs(run(trained_on).key) / file).read_bytes() for file in files} == before
    assert len(runs.finished(trained_on.hash)) == 2


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
    frame = tables.on(data.hash)
    assert (frame["source"] == "paper").sum() == 12
    mine = frame[frame["source"] == "run"].set_index("key")
    assert mine.loc[plain.key, "column"] == "ResNet34, n = 1" and mine.loc[balanced.key, "table"] == 2
    assert mine.loc[other.key, "column"] == "ResNet34, n = 3" and mine["table"].isna().sum() == 1
    assert mine["tp"].tolist() == [runs.load(key).counts.tp for key in mine.index]
    assert tables.on("another dataset")["source"].unique().tolist() == ["paper"]


def test_a_protocol_names_the_departures_from_the_paper_only():
    assert tables.protocol(TrainSettings.of(seed=3, scale_factor=1)) == "paper"
    assert tables.protocol(settings()) == "channels=1, image_size=32, epochs=2, batch_size=8"


def test_a_run_fits_only_its_own_radiographs(done, trained_on):
    done.check_fits(trained_on)
    with pytest.raises(ValueError, match=r"at image_size = 48, .* the settings say image_size = 32, fit"):
        done.check_fits(toy.load("toy", 48))
    with pytest.raises(ValueError, match=r"trained on 'toy', which is not this 'other'"):
        done.check_fits(toy.load(toy.prepared("other", seed=3), 32))


def test_a_record_cannot_tell_of_other_images_than_it_was_trained_on(data):
    for wanted, said in (
        (settings(image_size=64), "image_size = 64, fit = stretch"),
        (settings(fit="pad"), "fit = pad"),
    ):
        with pytest.raises(ValueError, match=rf"'toy' were loaded at image_size = 32, fit = stretch, .* say .*{said}"):
            runs.load_or_train(wanted, data, CPU, progress=False)
        with pytest.raises(ValueError, match=r"were loaded at image_size = 32"):
            loop.fit(wanted, data, CPU, progress=False)
    assert runs.finished(data.hash) == []


NAMES = {"DATASET": "toy", "DEVICE": "cpu", "SEEDS": "0,1", "SCHEDULER": "", "IMAGE_SIZE": 40, "FIT": "pad", "In": []}


def test_a_notebooks_names_become_settings_seeds_device_and_the_dataset_that_they_say(data):
    base, seeds, device, loaded = runs.set_up(NAMES | {"MIXES": 2, "IN_MEMORY_MIB": 0}, "MIXES", model="densenet")
    assert (base.image_size, base.fit, base.model, seeds, device) == (40, "pad", "densenet", (0, 1), CPU)
    assert (loaded.image_size, loaded.fit, loaded.images.shape[-1]) == (40, "pad", 40) and loaded.mapped


def test_a_missing_phantom_is_made_as_notebook_01_makes_it(home, monkeypatch):
    made = []
    monkeypatch.setattr(prepare, "phantom", lambda *given: made.append(given), raising=False)
    with pytest.raises(ValueError, match="no prepared dataset 'phantom'"):
        runs.set_up(NAMES | {"DATASET": "phantom"})
    assert made == [("phantom", PhantomSettings(), PrepareSettings.from_parameters(SMOKE))]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"IMAGESIZE": 64}, "there is no parameter IMAGESIZE.*IMAGE_SIZE"),
        ({"EPOCHS": "zero"}, "epochs = 'zero'"),
        ({"DEVICE": "tpu"}, "'tpu': choose auto, cpu or cuda"),
        ({"DATASET": "gone"}, "no prepared dataset 'gone'; there is toy"),
    ],
)
def test_a_notebooks_wrong_name_or_value_is_refused(data, names, said):
    with pytest.raises(ValueError, match=said):
        runs.set_up(NAMES | names)


def test_a_run_made_on_another_machine_is_found_where_it_is_copied_to(done, trained_on, monkeypatch, tmp_path_factory):
    here = tmp_path_factory.mktemp("here")
    (here / "outputs" / "runs").mkdir(parents=True)
    paths.runs(done.key).rename(here / "outputs" / "runs" / done.key)
    monkeypatch.setenv("PNEUMO_NB_HOME", str(here))
    monkeypatch.setattr(loop, "fit", lambda *_: pytest.fail("trained again"))
    assert run(trained_on) == done and runs.finished(trained_on.hash) == [done]


def test_a_run_that_diverged_is_not_finished_and_says_the_same_again(data):
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="epoch 1, step"):
            run(data, learning_rate=1e38)
    assert not runs.is_finished(runs.key(settings(learning_rate=1e38), data.hash)) and runs.finished(data.hash) == []


def test_initial_weights_count_by_their_content(home, tmp_path):
    file = tmp_path / "start.safetensors"
    wanted = settings(initial_weights=str(file))
    absent = runs.key(wanted, "a")
    keys = {absent}
    for seed in (1, 2):
        save_file(toy.build("resnet34", 1, seed=seed).state_dict(), file)
        keys |= {runs.key(wanted, "a"), runs.key(wanted, "a")}
    assert len(keys) == 3


def test_weights_that_do_not_fit_their_run_are_named(done):
    save_file({"other": torch.zeros(2)}, paths.runs(done.key) / "weights.safetensors")
    with pytest.raises(ValueError, match=rf"^weights.safetensors of run {done.key} does not fit resnet34: ") as said:
        done.network()
    assert "\n" not in str(said.value)


def test_a_run_of_another_format_is_never_mixed_in_and_a_damaged_record_is_named(done, trained):
    record, told = paths.runs(done.key) / "record.json", done.record["dataset"]["hash"]
    record.write_text(record.read_text().replace(f'"format": {runs.RUN_FORMAT}', '"format": 0'))
    assert [run.key for run in runs.finished(told)] == trained[1:]
    with pytest.raises(ValueError, match=rf"run {done.key} has format 0; this version reads and trains format"):
        runs.load(done.key)
    record.write_text("{")
    with pytest.raises(ValueError, match=rf"record.json of '{done.key}' is damaged: remove its folder"):
        runs.finished(told)


OWNER = """
import os, signal, torch, toy
from pneumo_nb.train import checkpoints, dataset, models, runs
from pneumo_nb.settings import TrainSettings
models.build, save = toy.build, checkpoints.save
def save_and_stop(*given):
    save(*given)
    os.kill(os.getpid(), signal.SIGSTOP)
checkpoints.save = save_and_stop
settings = TrainSettings.of(image_size=32, channels=1, epochs=2, batch_size=8)
runs.load_or_train(settings, dataset.load("toy", settings), torch.device("cpu"), progress=False)
"""


def test_of_two_processes_one_trains_and_one_waits_and_a_killed_one_is_followed(data, capsys):
    run_key = runs.key(settings(), data.hash)
    here = os.environ | {"PYTHONPATH": str(Path(toy.__file__).parent), "OMP_NUM_THREADS": "1"}
    with ThreadPoolExecutor() as beside, subprocess.Popen([sys.executable, "-c", OWNER], env=here) as owner:
        try:
            assert os.WIFSTOPPED(os.waitpid(owner.pid, os.WUNTRACED)[1])  # after an epoch; it keeps the lock
            assert (paths.runs(run_key) / "checkpoint.pt").is_file()
            follower, said = beside.submit(run, data), ""
            while not (said or follower.done()):
                said = capsys.readouterr().err
                time.sleep(0.01)
            assert said == f"another process is busy with run {run_key}: waiting until it is done\n"
            assert not follower.done() and owner.poll() is None
        finally:
            owner.kill()
        assert follower.result(120).key == run_key and not capsys.readouterr().err
    assert len(runs.load(run_key).history) == 2
    assert [path.name for path in paths.runs(run_key).iterdir() if path.name.startswith((".", "checkpoint"))] == []


def test_a_full_disk_leaves_no_half_file_and_the_same_run_again_ends_as_on_an_empty_one(small_disk, monkeypatch):
    monkeypatch.setenv("PNEUMO_NB_HOME", str(small_disk))
    data = toy.load(toy.prepared())
    undisturbed = run(data, epochs=1)
    folder = paths.runs(undisturbed.key)
    files = ("weights.safetensors", "history.csv", "predictions.csv")
    wanted = {file: (folder / file).read_bytes() for file in files}
    refused = set()
    for pages in range(13):
        for file in folder.iterdir():
            file.unlink()
        with filled(small_disk, but=pages * 4096):
            try:
                run(data, epochs=1)
            except OSError as error:
                refused.add(str(error).split("/")[-1])
            left = {file.name: file.read_bytes() for file in folder.iterdir()}
            assert left.keys() <= {*files, "checkpoint.pt", "record.json"}
            assert all(left[file] == wanted[file] for file in files if file in left)
        assert run(data, epochs=1).counts == undisturbed.counts
        assert {file: (folder / file).read_bytes() for file in files} == wanted
    full = "cannot be written: No space left on device"
    assert {f"checkpoint.pt {full}", f"record.json {full}"} <= refused and len(refused) >= 4


def test_a_finished_run_is_loaded_from_a_folder_that_may_only_be_read(small_disk, monkeypatch):
    monkeypatch.setenv("PNEUMO_NB_HOME", str(small_disk))
    data = toy.load(toy.prepared())
    done = run(data)
    with read_only(small_disk):
        assert run(data).record == done.record
        with pytest.raises(OSError, match=r"^outputs/runs/\.[0-9a-f]{16}\.lock cannot be written: Read-only file"):
            run(data, seed=1)
