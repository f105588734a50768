import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import toy

from pneumo_nb import paths
from pneumo_nb.settings import TrainSettings
from pneumo_nb.train import dataset, loop, machine, models

CPU = torch.device("cpu")


def test_images_and_labels_arrive_in_manifest_order(home):
    data = toy.load(toy.prepared())
    assert data.images.shape == (24, 1, 32, 32) and data.images.dtype == torch.uint8 and data.white == 255
    assert data.labels.tolist() == [int(i % 3 == 0) for i in range(24)]
    middle = data.images[:, 0, 16, 16].float()
    assert middle[data.labels == 1].min() > middle[data.labels == 0].mean()
    assert data.part("test").tolist() == list(range(16, 24)) and len(data.part("validation")) == 0


def test_sixteen_bits_give_the_same_picture(home):
    eight = toy.load(toy.prepared("eight"), 60)
    sixteen = toy.load(toy.prepared("sixteen", bits=16), 60)
    assert sixteen.white == 65535
    assert torch.allclose(eight.images / 255, sixteen.images / 65535, atol=1.01 / 255)


def test_a_missing_dataset_is_refused_with_those_that_exist(home):
    toy.prepared("nih")
    with pytest.raises(ValueError, match=r"no prepared dataset 'nhi'; there is nih"):
        toy.load("nhi", 32)


def test_a_changed_or_missing_image_is_named(home):
    folder = paths.prepared(toy.prepared())
    damaged = folder / "images" / "r5.png"
    content = bytearray(damaged.read_bytes())
    content[-20] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match=r"images/r5.png.*has changed"):
        toy.load("toy", 32)
    damaged.unlink()
    with pytest.raises(ValueError, match=r"images/r5.png.*is missing"):
        toy.load("toy", 32)


def test_radiographs_without_labels_are_refused(home):
    manifest = paths.prepared(toy.prepared()) / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",p3,1,", ",p3,,"))
    with pytest.raises(ValueError, match="without a label"):
        toy.load("toy", 32)


def test_square_stretches_pads_or_crops():
    image = np.zeros((40, 20), np.uint8)
    image[:, 5:15] = 200
    stretched = dataset.square(image, 40, "stretch")
    assert stretched[:, 12:28].min() == 200 and stretched[:, :8].max() == 0
    padded = dataset.square(image, 40, "pad")
    assert (padded[:, 15:25] == 200).all() and (padded[:, :10] == 0).all() and (padded[:, 30:] == 0).all()
    cropped = dataset.square(np.arange(40, dtype=np.uint8).repeat(20).reshape(40, 20), 20, "crop")
    assert cropped[0, 0] == 10 and cropped[-1, 0] == 29
    assert dataset.square(image, 7, "pad").shape == (7, 7)


def test_normalisation_of_the_training_set_has_mean_0_and_sd_1(home):
    data = toy.load(toy.prepared())
    feed = dataset.Feed(data, torch.device("cpu"), channels=3, normalisation="dataset")
    batch = feed.images(data.part("train"))
    assert batch.shape == (16, 3, 32, 32) and torch.equal(batch[:, 0], batch[:, 2])
    assert abs(batch.mean()) < 1e-4 and abs(batch.std() - 1) < 1e-3
    plain = dataset.Feed(data, torch.device("cpu"), 1, "none").images(data.part("train"))
    assert plain.min() >= 0 and plain.max() <= 1


def test_imagenet_normalisation_differs_by_channel(home):
    data = toy.load(toy.prepared())
    batch = dataset.Feed(data, torch.device("cpu"), 3, "imagenet").images(np.array([0]))
    assert torch.allclose(batch[0, 0] * 0.229 + 0.485, batch[0, 2] * 0.225 + 0.406, atol=1e-6)


def test_only_the_images_asked_for_are_flipped(home):
    data = toy.load(toy.prepared())
    feed = dataset.Feed(data, torch.device("cpu"), 1, "none")
    plain, flipped = feed.images(np.array([1, 2])), feed.images(np.array([1, 2]), np.array([False, True]))
    assert torch.equal(plain[0], flipped[0]) and torch.equal(plain[1].flip(2), flipped[1])
    assert feed.labels(np.array([3, 4])).tolist() == [1, 0]


def test_masks_have_the_geometry_of_the_radiographs(home):
    data = toy.load(toy.prepared())
    positions = np.array([3, 4])
    assert dataset.masks(data, positions) == {}
    toy.masks()
    known = dataset.masks(data, positions)
    assert {name: mask.shape for name, mask in known.items()} == dict.fromkeys(("lungs", "opacities"), (2, 32, 32))
    assert known["lungs"].mean() == pytest.approx(0.64, abs=0.03)  # 48 x 40 of 60 x 50, however stretched
    bright = data.images[3, 0].numpy() > 125
    assert (known["opacities"][0] == bright).mean() > 0.9 and not known["opacities"][1].any()
    padded = dataset.masks(toy.load("toy", 32, "pad"), positions)
    assert not padded["lungs"][:, :, :5].any() and padded["lungs"].mean() < known["lungs"].mean()


def test_a_kind_of_mask_that_one_radiograph_lacks_is_left_out(home):
    data = toy.load(toy.prepared())
    toy.masks()
    (paths.prepared("toy") / "masks" / "r4_opacities.png").unlink()
    assert set(dataset.masks(data, np.array([3, 4]))) == {"lungs"}
    assert set(dataset.masks(data, np.array([3, 5]))) == {"lungs", "opacities"}


@pytest.mark.parametrize(("fit", "width"), [("stretch", 250.0), ("pad", 300.0), ("crop", 250.0)])
def test_the_width_in_mm_is_that_of_what_is_left(fit, width):
    row = pd.Series({"width": 100, "height": 120, "spacing_mm": 2.5})
    assert dataset.width_mm(row, fit) == width
    assert np.isnan(dataset.width_mm(row.replace(2.5, np.nan), fit))
    assert np.isnan(dataset.width_mm(row.drop("spacing_mm"), fit))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_network_trained_from_a_mapped_file_has_the_same_weights(home, monkeypatch, bits):
    monkeypatch.setattr(models, "build", toy.build)
    wanted = TrainSettings.of(image_size=32, channels=1, epochs=2, batch_size=4, normalisation="dataset")
    held = dataset.load(toy.prepared(bits=bits, validation=6), wanted)
    mapped = dataset.load("toy", wanted.varied(in_memory_mib=0))
    assert mapped.mapped and not held.mapped and torch.equal(mapped.images, held.images)
    one, other = (loop.fit(wanted, data, CPU, progress=False) for data in (held, mapped))
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    assert (one.probabilities == other.probabilities).all()


def test_images_are_mapped_from_half_of_the_free_memory_on_and_the_file_is_made_once(home, monkeypatch):
    folder = paths.prepared(toy.prepared())
    monkeypatch.setattr(machine, "free", lambda device: 2 * 24 * 32 * 32)
    assert not toy.load("toy", 32).mapped and not list(folder.glob("squares*"))
    made = toy.load("toy", 33)
    (file,) = folder.glob("squares*")
    assert made.mapped and file.stat().st_size == made.images.nbytes == 24 * 33 * 33
    written = file.stat().st_mtime_ns
    assert torch.equal(toy.load("toy", 33).images, made.images) and file.stat().st_mtime_ns == written
    assert not dataset.load("toy", TrainSettings.of(image_size=33, in_memory_mib=1)).mapped


def test_what_fits_neither_into_memory_nor_onto_the_disk_is_refused_before_it_is_read(home, monkeypatch):
    name = toy.prepared()
    monkeypatch.setattr(machine, "free", lambda device: 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(MemoryError, match=r"squares-128-stretch-\S+ of .* are free on disk"):
        toy.load(name, 128)


RESIDENT = """
import numpy as np, torch, toy
from pneumo_nb.settings import TrainSettings
from pneumo_nb.train import dataset, machine
toy.load("toy", 64).images.float().mean()  # what torch takes of itself
before, cpu = machine.peak_mib(torch.device("cpu")), torch.device("cpu")
data = dataset.load("toy", TrainSettings.of(image_size=512, in_memory_mib=30))
feed = dataset.Feed(data, cpu, 1, "dataset")
for position in range(len(data.labels)):
    feed.images(np.array([position]))
print(data.images.nbytes / 2**20, machine.peak_mib(cpu) - before)
"""


def test_a_mapped_set_takes_a_fraction_of_its_size_in_resident_memory(home):
    toy.prepared(images=240)
    here = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    told = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True, env=here)
    size, resident = map(float, told.stdout.split())
    assert size == 60 and resident < 30
