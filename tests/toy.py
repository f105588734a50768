"""A prepared dataset and a network small enough to train in a moment, made without the picture wing."""

import hashlib
import json

import cv2
import numpy as np
import torch
from torch import nn

from pneumo_nb import paths
from pneumo_nb.settings import TrainSettings
from pneumo_nb.train import dataset

HEADER = "image_id,file,patient_id,label,stage,split,width,height,sha256\n"


def prepared(name: str = "toy", images: int = 24, seed: int = 0, validation: int = 0, bits: int = 8) -> str:
    """Grey noise of 50 x 60; every third one holds a bright square and is positive; the last third is for testing."""
    random = np.random.default_rng(seed)
    folder = paths.prepared(name)
    (folder / "images").mkdir(parents=True)
    lines = []
    for index in range(images):
        positive = index % 3 == 0
        picture = random.integers(0, 120, (60, 50)).astype(np.uint8 if bits == 8 else np.uint16)
        if positive:
            picture[15:45, 10:40] += 130
        content = cv2.imencode(".png", picture * (1 if bits == 8 else 257))[1].tobytes()
        file = f"images/r{index}.png"
        (folder / file).write_bytes(content)
        split = "test" if index >= images * 2 // 3 else "validation" if index < validation else "train"
        digest = hashlib.sha256(content).hexdigest()
        lines.append(f"r{index},{file},p{index},{int(positive)},,{split},50,60,{digest}\n")
    (folder / "manifest.csv").write_text(HEADER + "".join(lines))
    parts = {"train": {"0": 1, "1": 1}, "test": {"0": 1, "1": 1}}  # both classes; the numbers are not looked at
    (folder / "dataset.json").write_text(json.dumps({"hash": f"{name}-{seed}", "counts": {"parts": parts}}))
    return name


def load(name: str = "toy", image_size: int = 32, fit: str = "stretch") -> dataset.Dataset:
    """A prepared dataset as settings of that image size and fit load it."""
    return dataset.load(name, TrainSettings.of(image_size=image_size, fit=fit))


def masks(name: str = "toy", images: int = 24) -> None:
    """Give every radiograph of `prepared` its masks: lungs but for a rim, and the bright square as opacity."""
    folder = paths.prepared(name) / "masks"
    folder.mkdir()
    for index in range(images):
        lungs, opacities = np.zeros((2, 60, 50), np.uint8)
        lungs[6:54, 5:45] = 255
        opacities[15:45, 10:40] = 255 * (index % 3 == 0)
        cv2.imwrite(str(folder / f"r{index}_lungs.png"), lungs)
        cv2.imwrite(str(folder / f"r{index}_opacities.png"), opacities)


def build(model: str, channels: int = 3, norm_layer: str = "batch", seed: int = 0, **_) -> nn.Module:
    """In place of models.build where a test is about the loop: batch normalisation, dropout and two outputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(channels, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1),
            nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        )  # fmt: skip
