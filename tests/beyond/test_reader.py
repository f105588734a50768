"""A new radiograph through the road of a run: the same bits, the same refusals, and nothing of the file itself."""

import io
import re

import canaries
import numpy as np
import pandas as pd
import pytest
import sources as made

from pneumo_nb import __main__ as command_line
from pneumo_nb import paths, prepare
from pneumo_nb.beyond import reader
from pneumo_nb.prepare import pseudonyms
from pneumo_nb.settings import PrepareSettings, TrainSettings
from pneumo_nb.train import dataset, runs

TINY = {"model": "densenet", "depth": 7, "blocks": 2, "bottleneck": False, "growth_rate": 4, "image_size": 32}
TINY |= {"epochs": 1, "channels": 1, "normalisation": "dataset", "batch_size": 8}


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A source full of canaries, prepared, and a run on it."""
    planted, home = canaries.Planted(), tmp_path_factory.mktemp("home")
    source = tmp_path_factory.mktemp("source") / planted.text("source folder")
    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning):
        patch.setenv("PNEUMO_NB_HOME", str(home))
        canaries.source(source, planted)
        how = PrepareSettings.of(validation_fraction=0.4, downsize=2)
        prepare.prepare(source, None, "x", how, progress=False, workers=2)
        settings = TrainSettings.of(**TINY)
        run = runs.load_or_train(settings, dataset.load("x", settings), runs.device("cpu"), progress=False)
        yield planted, source, home, run.key


def said(capsys, *arguments):
    code = command_line.main([str(argument) for argument in arguments])
    return code, capsys.readouterr()


def test_a_folder_gives_the_probabilities_of_the_run_and_the_refusals_of_preparing(road, capsys):
    planted, source, _, key = road
    code, captured = said(capsys, "read", source, "--run", key)
    table = pd.read_csv(io.StringIO(captured.out), keep_default_na=False).set_index("position")
    assert code == 0 and not canaries.leaks((captured.out + captured.err).encode(), planted)
    rejects = pd.read_csv(paths.prepared("x") / "rejects.csv").set_index("position")["reason"]
    refused = table["reason"][table["reason"] != ""]
    with_row = rejects[rejects != "it has no row in the labels CSV"]
    assert refused[with_row.index].equals(with_row) and len(refused) == len(rejects) > len(with_row) > 10
    named = {pseudonyms.image_id(pseudonyms.key(), file): place for place, file in files(source)}
    told = runs.load(key).predictions.set_index("image_id")["probability"]
    ours = pd.to_numeric(table["probability"])
    assert len(told) == len(table) - len(refused)
    for image_id, probability in told.items():
        assert np.float32(ours[named[image_id]]) == np.float32(probability)


def files(source):
    from pneumo_nb.prepare import sources

    return enumerate(sources.read(source)[0], start=1)


def accepted(road):
    _, source, _, key = road
    told = runs.load(key).predictions.set_index("image_id")["probability"]
    for _, file in files(source):
        image_id = pseudonyms.image_id(pseudonyms.key(), file)
        if file.endswith(".dcm") and image_id in told:
            return source / file, told[image_id]


def test_one_film_gives_the_bits_of_its_prediction_and_a_page_without_anything_of_the_file(road, capsys):
    planted, _, home, key = road
    film, probability = accepted(road)
    code, captured = said(capsys, "read", film, "--run", key, "--page")
    assert code == 0, captured.err
    told = dict(line.split(": ", 1) for line in captured.out.splitlines())
    assert np.float32(told["probability of pneumoconiosis"]) == np.float32(probability)
    page = home / told["page"]
    assert not canaries.leaks(captured.out.encode() + page.name.encode() + page.read_bytes(), planted)
    text = page.read_text()
    assert "research only" in text and told["probability of pneumoconiosis"] in text
    assert not re.search("(src|href)='(?!data:)|https?:", text) and film.name not in text
    assert text.count("<img") == 2 + 8  # the film, its map, the channels
    assert re.search("are the least", told["two thresholds"])  # too few here


def test_a_film_unlike_the_training_set_is_called_so_and_an_ordinary_one_is_not(road, tmp_path):
    film, _ = accepted(road)
    assert "UNLIKE" not in reader.answer(film, road[-1])
    odd = np.zeros((80, 90), np.uint8)
    odd[:40] = 255
    odd[0, 0] = 100
    assert "UNLIKE" in reader.answer(made.save_picture(tmp_path / "odd.png", odd), road[-1])


def test_what_cannot_be_read_is_refused_in_one_line_and_nothing_is_written(road, capsys, tmp_path):
    planted, source, home, key = road
    film, _ = accepted(road)
    text = tmp_path / f"{planted.text('refused file')}.txt"
    text.write_text(planted.text("refused content"))
    (tmp_path / "empty").mkdir()
    before = sorted(home.rglob("*"))
    for arguments, message in (
        ((text, "--run", key, "--page"), "refused: it is not a DICOM, JPG or PNG file"),
        ((tmp_path / "nowhere.dcm", "--run", key), "refused: it cannot be read (FileNotFoundError)"),
        ((film, "--run", "0123"), "there is no finished run '0123'"),
        ((tmp_path / "empty", "--run", key), "the folder holds no files"),
        ((source, "--run", key, "--page"), "a page is of one film"),
    ):
        code, captured = said(capsys, "read", *arguments)
        assert code == 2 and message in captured.err and captured.err.count("\n") == 1 and not captured.out
        assert not canaries.leaks(captured.err.encode(), planted)
    assert sorted(home.rglob("*")) == before


def test_a_run_without_a_validation_part_says_that_nothing_is_calibrated(road, home):
    _, source, *_ = road
    prepare.prepare(source, None, "x", PrepareSettings.of(downsize=2), progress=False, workers=2)
    settings = TrainSettings.of(**TINY)
    run = runs.load_or_train(settings, dataset.load("x", settings), runs.device("cpu"), progress=False)
    told = reader.answer(next(source / file for _, file in files(source) if file.endswith(".png")), run.key)
    assert told.count("no validation part") == 2 and "as suspicious" not in told


def test_a_run_whose_dataset_is_gone_reads_nothing(road, home):
    _, source, old, key = road
    (home / "outputs").symlink_to(old / "outputs")
    with pytest.raises(ValueError, match="no prepared dataset 'x'"):
        reader.answer(source / next(file for _, file in files(source)), key)
