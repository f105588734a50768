"""A prepared dataset -> batches: radiographs as bytes, on the device if they fit, else in memory, else in one file."""

import hashlib
import json
import mmap
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pneumo_nb import paths
from pneumo_nb.settings import COVERED, TrainSettings
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
    mapped: mmap.mmap | None = None  # the file that the images lie in, if they are not in memory

    def taken(self, positions: Tensor) -> Tensor:
        """A copy of these images; what was read of a mapped file does not stay in the memory of this process."""
        images = self.images[positions]
        if self.mapped:
            self.mapped.madvise(mmap.MADV_DONTNEED)
        return images

    def refuse_others(self, settings: TrainSettings) -> None:
        """A ValueError unless these radiographs are at the size and of the fit that the settings say."""
        if (self.image_size, self.fit) != (settings.image_size, settings.fit):
            here, wanted = (f"image_size = {one.image_size}, fit = {one.fit}" for one in (self, settings))
            raise ValueError(f"the radiographs of {self.name!r} were loaded at {here}, and the settings say {wanted}")

    def part(self, split: str) -> np.ndarray:
        """Positions of the training set (`train`), the testing set (`test`) or the validation part (`validation`)."""
        return np.flatnonzero(self.manifest["split"].to_numpy() == split)

    def mean_and_sd(self, normalisation: str) -> Tensor:
        """What a grey level between 0 and 1 is shifted and divided by: (2, channels), or (2, 1) for all channels."""
        if normalisation == "none":
            return torch.tensor([[0.0], [1.0]])
        if normalisation == "imagenet":
            return torch.tensor([IMAGENET_MEAN, IMAGENET_SD])
        parts = torch.from_numpy(self.part("train")).split(4)
        pixels = sum(torch.bincount(self.taken(part).flatten(), minlength=self.white + 1) for part in parts).double()
        grey, number = torch.arange(self.white + 1, dtype=torch.float64) / self.white, pixels.sum()
        mean = (pixels * grey).sum() / number
        return torch.stack([mean, ((pixels * (grey - mean) ** 2).sum() / (number - 1)).sqrt()]).float().view(2, 1)


class Feed:
    """Batches of a dataset on a device, as the network sees them; bytes that do not fit there travel batch by batch."""

    def __init__(self, data: Dataset, device: torch.device, channels: int, normalisation: str):
        """`channels` repeats the grey image; `normalisation` is none, dataset or imagenet (see `mean_and_sd`)."""
        fits = device.type == "cpu" or data.images.nbytes <= torch.cuda.mem_get_info(device)[0] / 2
        self.device, self.white, self.channels, self.image_size = device, data.white, channels, data.image_size
        self._data, self._images = data, data.images.to(device) if fits else data.images
        self._labels = data.labels.to(device)
        self._mean, self._sd = data.mean_and_sd(normalisation).to(device).view(2, 1, -1, 1, 1)
        self.on_gpu = self._images.device.type == "cuda"  # then a batch is made there, with nothing sent

    def images(self, positions: np.ndarray | Tensor, flips: np.ndarray | Tensor | None = None) -> Tensor:
        """Positions in the manifest, and which to flip left-right -> (batch, channels, size, size), float32."""
        here = torch.as_tensor(positions, device=self._images.device)
        taken = self._images[here] if self.on_gpu else self._data.taken(here)
        grey = taken.to(self.device).float() / self.white
        if flips is not None:
            grey = torch.where(torch.as_tensor(flips, device=self.device).view(-1, 1, 1, 1), grey.flip(3), grey)
        return ((grey - self._mean) / self._sd).expand(-1, self.channels, -1, -1)

    def labels(self, positions: np.ndarray | Tensor) -> Tensor:
        """Positions in the manifest -> (batch,), int64, 0 or 1."""
        return self._labels[torch.as_tensor(positions, device=self.device)]


def load(name: str, settings: TrainSettings) -> Dataset:
    """Read the prepared dataset `name`, its labels, and its images as squares, as `image_size` and `fit` say.

    Images of more than `in_memory_mib`, by default half of what is free, are mapped from one file beside the manifest,
    made once; what is computed from them is the same. Each file is compared with the SHA-256 in the manifest first. A
    ValueError names what is missing, changed or unlabelled; a MemoryError tells of too small a disk.
    """
    manifest, about = paths.read_dataset(name)
    if not manifest["label"].isin(["0", "1"]).all():
        raise ValueError(f"dataset {name!r} has radiographs without a label: prepare it again with --labels")
    folder, size = paths.prepared(name), settings.image_size
    first = _read(folder, manifest.iloc[0])
    white, kind = (255, np.dtype(np.uint8)) if first.itemsize == 1 else (65535, np.dtype(np.int32))
    needed, free = len(manifest) * size**2 * kind.itemsize, machine.free(torch.device("cpu"))
    squares, mapped = (square(_read(folder, row), size, settings.fit) for row in manifest.itertuples()), None
    if needed <= (free / 2 if settings.in_memory_mib == "half" else min(free, settings.in_memory_mib * 2**20)):
        images = np.fromiter(squares, np.dtype((kind, (1, size, size))), len(manifest))
    else:
        mapped = _mapped(folder / f"squares-{size}-{settings.fit}-{about['hash'][:16]}", squares, needed, kind)
        images = np.frombuffer(mapped, kind).reshape(-1, 1, size, size)
    pixels, labels = torch.from_numpy(images), torch.from_numpy(manifest["label"].to_numpy(dtype=np.int64))
    return Dataset(name, about["hash"], manifest, pixels, labels, white, size, fit=settings.fit, mapped=mapped)


def _mapped(file: Path, squares: Iterator[np.ndarray], needed: int, kind: np.dtype) -> mmap.mmap:
    with paths.alone(file.with_name(f".{file.name}.lock"), f"the images of {file.parent.name!r}"):
        if not file.is_file():
            if needed > (room := shutil.disk_usage(file.parent).free):
                raise MemoryError(f"{file.name} of {needed / 2**30:.1f} GiB: {room / 2**30:.1f} GiB are free on disk")
            with paths.whole(file) as beside, beside.open("wb") as pixels:
                pixels.writelines(image.astype(kind).tobytes() for image in squares)
    with file.open("rb") as pixels:
        return mmap.mmap(pixels.fileno(), 0, access=mmap.ACCESS_COPY)  # torch wants what it could write to


def hash_of(name: str) -> str:
    """What tells the prepared dataset of that name from all others; empty where there is none of the name."""
    about = paths.prepared(name) / "dataset.json"
    return json.loads(about.read_text())["hash"] if about.is_file() else ""


def masks(data: Dataset, positions: np.ndarray) -> dict[str, np.ndarray]:
    """What is known of these radiographs, as bools (radiographs, size, size) of the size that the network sees.

    Of `lungs` and `opacities` those of which every one of the radiographs has a mask; often, of real ones, neither.
    """
    folder, known = paths.prepared(data.name) / "masks", {}
    for name, covered in COVERED.items():
        files = [folder / f"{image_id}_{name}.png" for image_id in data.manifest["image_id"].iloc[positions]]
        if files and all(file.is_file() for file in files):
            read = (cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files)
            known[name] = np.stack([square(mask, data.image_size, data.fit) for mask in read]) >= covered * 255
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
    """Millimetres from edge to edge of what `square` leaves of a row of the manifest; NaN if no spacing is known."""
    side = {"stretch": row["width"], "pad": max(row["width"], row["height"]), "crop": min(row["width"], row["height"])}
    return row.get("spacing_mm", np.nan) * side[fit]


def _read(folder: Path, row) -> np.ndarray:
    path = folder / row.file
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != row.sha256:
        state = "has changed since it was prepared" if content else "is missing"
        raise ValueError(f"{row.file} of dataset {folder.name!r} {state}: prepare the dataset again")
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
