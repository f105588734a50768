"""Two runs of the toy dataset, trained once for all tests that look at what is stored of runs."""

import shutil

import pytest
import torch
import toy

from pneumo_nb.settings import TrainSettings
from pneumo_nb.train import models, sweep

CPU = torch.device("cpu")
TINY = {"image_size": 32, "channels": 1, "epochs": 2, "batch_size": 8}


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """A project folder with the dataset `toy` and its runs of seeds 0 and 1: not to be written to."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as here:
        here.setenv("PNEUMO_NB_HOME", str(folder))
        here.setattr(models, "build", toy.build)
        wanted = [TrainSettings.of(**TINY, seed=seed) for seed in (0, 1)]
        runs = sweep.train_all(wanted, toy.load(toy.prepared(validation=6)), CPU)
    return folder, [run.key for run in runs]


@pytest.fixture
def trained(trained_once, home, monkeypatch):
    """The keys of these runs, which with their dataset are a copy in `home`; more are trained with the toy network."""
    folder, keys = trained_once
    shutil.copytree(folder, home, dirs_exist_ok=True)
    monkeypatch.setattr(models, "build", toy.build)
    return keys
