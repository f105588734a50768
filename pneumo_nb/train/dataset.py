"""A prepared dataset -> batches: every radiograph is held as bytes, on the device when it fits, else in memory."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pneumo_nb import paths, prepared
from pneumo_nb.settings import TrainSettings
from pneumo_nb.train import machine

IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's own, of RGB / 255


@dataclass(frozen=True)
class Dataset:
    """All radiographs of a prepared dataset at one size, in the order of its manifest."""

    name: str
    hash: str
    manifest: pd.DataFrame
    images: Tensor  # (images, 1, size, size), uint8, or int32 for 16 bits
    labels: Tensor  # (images,), int64: 0 negative, 1 pneumoconiosis
    white: int  # the grey level of white: 255 or 65535
    image_size: int  # pixels a side
    fit: str  # how each radiograph became square

    def refuse_others(self, settings: TrainSettings) -> None:
        """A ValueError unless these radiographs are at the size and of the fit that the settings say."""
        wanted = {name: getattr(settings, name) for name in ("image_size", "fit")}
        if wanted != (here := {name: getattr(self, name) for name in wanted}):
            told, asked = (", ".join(f"{name} = {value}" for name, value in each.items()) for each in (here, wanted))
            raise ValueError(
                f"the radiographs of {self.name!r} were loaded at {told}, and the settings say {asked}:"
                " load them by these settings"
            )

    def part(self, split: str) -> np.ndarray:
        """Positions of the training set (`train`), the testing set (`test`) or the validation part (`validation`)."""
        return np.flatnonzero(self.manifest["split"].to_numpy() == split)

    def mean_and_sd(self, normalisation: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """What a grey level between 0 and 1 is shifted and divided by, for each input channel or for all."""
        if normalisation == "none":
            return (0.0,), (1.0,)
        if normalisation == "imagenet":
            return IMAGENET_MEAN, IMAGENET_SD
        grey = self.images[torch.from_numpy(self.part("train"))].to(torch.float64) / self.white
        return (grey.mean().item(),), (grey.std().item(),)


class Feed:
    """Batches of a dataset on a device, as the network sees them.

    The bytes sit on the device if they take at most half of the free memory there, else they travel batch by batch.
    """

    def __init__(self, data: Dataset, device: torch.device, channels: int, normalisation: str):
        """`channels` repeats the grey image; `normalisation` is none, dataset or imagenet (see `mean_and_sd`)."""
        fits = device.type == "cpu" or data.images.nbytes <= torch.cuda.mem_get_info(device)[0] / 2
        self.device, self.white, self.channels, self.image_size = device, data.white, channels, data.image_size
        self._images = data.images.to(device) if fits else data.images
        self._labels = data.labels.to(device)
        mean, sd = data.mean_and_sd(normalisation)
        self._mean = torch.tensor(mean, device=device).view(1, -1, 1, 1)
        self._sd = torch.tensor(sd, device=device).view(1, -1, 1, 1)

    @property
    def on_gpu(self) -> bool:
        """Whether the bytes sit on a GPU, so that a batch is made there with nothing sent."""
        return self._images.device.type == "cuda"

    def images(self, positions: np.ndarray | Tensor, flips: np.ndarray | Tensor | None = None) -> Tensor:
        """Positions in the manifest, and which to flip left-right -> (batch, channels, size, size), float32."""
        here = torch.as_tensor(positions, device=self._images.device)
        grey = self._images[here].to(self.device).float() / self.white
        if flips is not None:
            grey = torch.where(torch.as_tensor(flips, device=self.device).view(-1, 1, 1, 1), grey.flip(3), grey)
        return ((grey - self._mean) / self._sd).expand(-1, self.channels, -1, -1)

    def labels(self, positions: np.ndarray | Tensor) -> Tensor:
        """Positions in the manifest -> (batch,), int64, 0 or 1."""
        return self._labels[torch.as_tensor(positions, device=self.device)]


def load(name: str, settings: TrainSettings) -> Dataset:
    """Read the prepared dataset `name`, its labels, and its images as squares, as `image_size` and `fit` say.

    Each file is compared with the SHA-256 in the manifest first. A ValueError names what is missing, changed or
    unlabelled; a MemoryError says how large the images could be.
    """
    folder = paths.finished(name)
    manifest, about = prepared.read_dataset(name)
    if not manifest["label"].isin(["0", "1"]).all():
        raise ValueError(f"dataset {name!r} has radiographs without a label: prepare it again with --labels")
    first = _read(folder, manifest.iloc[0])
    size, kind = settings.image_size, np.dtype(np.uint8 if first.itemsize == 1 else np.int32)
    needed, room = len(manifest) * size**2 * kind.itemsize, machine.free(torch.device("cpu"))
    if needed > room:
        raise MemoryError(
            f"{len(manifest)} radiographs at image_size = {size} take {needed / 2**30:.1f} GiB; {room / 2**30:.1f} GiB"
            f" are free in memory: image_size = {math.isqrt(room // (len(manifest) * kind.itemsize))} would fit"
        )
    images = np.empty((len(manifest), 1, size, size), kind)
    for position, row in enumerate(manifest.itertuples()):
        images[position, 0] = square(_read(folder, row), size, settings.fit)
    return Dataset(
        name=name,
        hash=about["hash"],
        manifest=manifest,
        images=torch.from_numpy(images),
        labels=torch.from_numpy(manifest["label"].to_numpy(dtype=np.int64)),
        white=255 if first.itemsize == 1 else 65535,
        image_size=size,
        fit=settings.fit,
    )


def hash_of(name: str) -> str:
    """What tells the prepared dataset of that name from all others; empty where there is none of the name."""
    about = paths.prepared(name) / "dataset.json"
    return json.loads(about.read_text())["hash"] if about.is_file() else ""


def masks(data: Dataset, positions: np.ndarray) -> dict[str, np.ndarray]:
    """What is known of these radiographs, as bools (radiographs, size, size) of the size that the network sees.

    Of `lungs` and `opacities` those of which every one of the radiographs has a mask; often, of real ones, neither.
    """
    folder, known = paths.prepared(data.name) / "masks", {}
    for name in ("lungs", "opacities"):
        files = [folder / f"{image_id}_{name}.png" for image_id in data.manifest["image_id"].iloc[positions]]
        if files and all(file.is_file() for file in files):
            read = [cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE) for file in files]
            known[name] = np.stack(
                [square(mask, data.image_size, data.fit) >= prepared.COVERED[name] * 255 for mask in read]
            )
    return known


def square(image: np.ndarray, size: int, fit: str) -> np.ndarray:
    """A (height, width) radiograph -> (size, size); shrinking averages areas, growing interpolates linearly.

    `fit` is the way there: `stretch` as in Section 3.1, `pad` with black, or `crop` the centre.
    """
    height, width = image.shape
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    elif fit == "pad":
        down, right = max(0, width - height), max(0, height - width)
        borders = (down // 2, down - down // 2, right // 2, right - right // 2)
        image = cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=0)
    shrinks = size <= min(image.shape)
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def width_mm(row: pd.Series, fit: str) -> float:
    """Millimetres from edge to edge of what `square` leaves of a radiograph; NaN if its spacing is not known.

    `row` is its row of the manifest.
    """
    side = {"stretch": row["width"], "pad": max(row["width"], row["height"]), "crop": min(row["width"], row["height"])}
    spacing = row.get("spacing_mm", "")
    return float(spacing) * side[fit] if spacing != "" else float("nan")


def _read(folder: Path, row) -> np.ndarray:
    path = folder / row.file
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != row.sha256:
        state = "has changed since it was prepared" if content else "is missing"
        raise ValueError(f"{row.file} of dataset {folder.name!r} {state}: prepare the dataset again")
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
