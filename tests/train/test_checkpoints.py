"""Checkpoints and weights as a training meets them: damaged, hostile, or another's."""

import dataclasses
import pickle
import zipfile

import pytest
import torch
import toy

from pneumo_nb.settings import TrainSettings
from pneumo_nb.train import checkpoints, loop, machine, models

CPU = torch.device("cpu")
TINY = {"image_size": 32, "channels": 1, "epochs": 2, "batch_size": 4, "learning_rate": 1e-3}


def fit(data, checkpoint=None, **settings):
    return loop.fit(TrainSettings.of(**(TINY | settings)), data, CPU, checkpoint, progress=False)


@pytest.fixture
def data(home, monkeypatch):
    monkeypatch.setattr(models, "build", toy.build)
    return toy.load(toy.prepared(validation=6), 32)


class Hostile:
    """Unpickled by an unwary reader, it leaves a file."""

    def __init__(self, sign):
        self.sign = sign

    def __reduce__(self):
        return (open, (str(self.sign), "w"))


@pytest.mark.parametrize("packed", ["pickle", "zip"])
def test_a_hostile_checkpoint_is_refused_and_runs_no_code(data, tmp_path, packed):
    checkpoint, sign = tmp_path / "key" / "checkpoint.pt", tmp_path / "sign"
    checkpoint.parent.mkdir()
    content = {"identity": {}, "done": Hostile(sign)}
    torch.save(content, checkpoint) if packed == "zip" else checkpoint.write_bytes(pickle.dumps(content))
    before = checkpoint.read_bytes()
    with pytest.raises(ValueError, match=r"^checkpoint.pt of run key is damaged or no checkpoint: remove it"):
        fit(data, checkpoint)
    assert not sign.exists() and checkpoint.read_bytes() == before
    torch.load(checkpoint, weights_only=False) if packed == "zip" else pickle.loads(before)
    assert sign.exists()  # it would have


def test_hostile_initial_weights_are_refused_and_run_no_code(data, tmp_path):
    weights, sign = tmp_path / "weights.safetensors", tmp_path / "sign"
    torch.save({"0.weight": Hostile(sign)}, weights)
    with pytest.raises(ValueError, match=r"initial_weights = 'weights.safetensors' does not fit resnet34"):
        fit(data, initial_weights=str(weights))
    assert not sign.exists()


def test_how_adam_runs_follows_the_device_and_not_the_checkpoint(tmp_path):
    net, settings = torch.nn.Linear(2, 2), TrainSettings()
    elsewhere = machine.adam(net, settings, CPU)
    net(torch.ones(1, 2)).sum().backward()
    elsewhere.step()
    elsewhere.param_groups[0]["capturable"] = True  # as on a GPU
    checkpoints.save(tmp_path / "checkpoint.pt", {}, {"history": []}, net, elsewhere)
    here = machine.adam(net, settings, CPU)
    assert checkpoints.resume(tmp_path / "checkpoint.pt", {}, net, here) == {"history": []}
    assert here.param_groups[0]["capturable"] is False
    for weight in net.parameters():
        assert torch.equal(here.state[weight]["exp_avg"], elsewhere.state[weight]["exp_avg"])


def test_a_damaged_checkpoint_is_refused(data, tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    fit(data, checkpoint)
    whole = checkpoint.read_bytes()
    with zipfile.ZipFile(checkpoint) as archive:
        weights = max(archive.infolist(), key=lambda entry: entry.file_size)
    within = whole.index(weights.filename.encode()) + 200
    flipped = whole[:within] + bytes([whole[within] ^ 1]) + whole[within + 1 :]
    for content in (b"", whole[:100], whole[: len(whole) // 2], flipped, b"junk"):
        checkpoint.write_bytes(content)
        with pytest.raises(ValueError, match="damaged or no checkpoint: remove it to train from the start"):
            fit(data, checkpoint)


def test_a_checkpoint_of_another_training_is_refused_by_what_differs(data, tmp_path, monkeypatch):
    checkpoint = tmp_path / "checkpoint.pt"
    fit(data, checkpoint)
    for settings, said in (({"seed": 7}, "seed = 0, not 7"), ({"model": "densenet"}, "model = resnet34, not densenet")):
        with pytest.raises(ValueError, match=rf"belongs to another training \({said}\)"):
            fit(data, checkpoint, **settings)
    with pytest.raises(ValueError, match=r"another training \(dataset = toy-0, not toy-1\)"):
        fit(dataclasses.replace(data, hash="toy-1"), checkpoint)
    monkeypatch.setattr(checkpoints, "CHECKPOINT_FORMAT", 0)
    with pytest.raises(ValueError, match=r"another training \(format = 1, not 0\)"):
        fit(data, checkpoint)


def test_a_checkpoint_whose_network_does_not_fit_is_refused(data, tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    fit(data, checkpoint)
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | {"network": {"other": torch.zeros(2)}}, checkpoint)
    with pytest.raises(ValueError, match=r"^checkpoint.pt of run .* does not fit the network \(Error.*\): move"):
        fit(data, checkpoint)
