"""One source file -> one prepared image (Section 2.1), and many of them in guarded processes on all cores."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pneumo_nb import paths, processes
from pneumo_nb.prepare import burned_in, dicom, images, pseudonyms
from pneumo_nb.prepare.dicom import Rejected
from pneumo_nb.prepare.labels import Row
from pneumo_nb.settings import PrepareSettings

INTERPOLATION = {
    "area": cv2.INTER_AREA,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "nearest": cv2.INTER_NEAREST,
}
# Share of a prepared pixel that must be covered for it to belong to the mask: half for the lungs, whose area then stays
# what it was; a quarter for opacities, of which the smallest are hardly larger than a prepared pixel and would vanish.
COVERED = {"lungs": 0.5, "opacities": 0.25}

LOADED = [__name__, "pydicom.pixels"]  # before the first file is read


@dataclass(frozen=True)
class Job:
    """What all files of a dataset have in common."""

    source: Path
    folder: Path | None  # the prepared folder in the making; None: nothing is written
    settings: PrepareSettings
    key: bytes
    suspects: Path | None = None  # the folder for crops of what seems to be text


@dataclass(frozen=True)
class Task:
    """One file to convert."""

    file: str  # relative to the source
    image_id: str
    row: Row
    position: int = 0  # among the source's files


def equalise(image: np.ndarray) -> np.ndarray:
    """Global histogram equalisation: each grey level becomes the share of pixels that are not brighter.

    `image` is (height, width) of uint8 or uint16, and so is what returns. At 8 bits it equals cv2.equalizeHist.
    """
    if image.dtype == np.uint8:
        return cv2.equalizeHist(image)
    white = np.iinfo(image.dtype).max
    not_brighter = np.bincount(image.ravel(), minlength=white + 1).cumsum()
    darkest = not_brighter[image.min()]
    if darkest == image.size:  # one grey level only: nothing to spread
        return image.copy()
    table = np.rint((not_brighter - darkest).clip(0) * (white / (image.size - darkest)))
    return table.astype(image.dtype)[image]


def refine(image: np.ndarray, settings: PrepareSettings) -> np.ndarray:
    """Section 2.1's pre-processing: equalise and downsize a (height, width) radiograph, in the order of `settings`."""
    if settings.order == "downsize_first":
        return _equalise(_downsize(image, settings), settings)
    return _downsize(_equalise(image, settings), settings)


def _equalise(image: np.ndarray, settings: PrepareSettings) -> np.ndarray:
    if settings.equalise == "clahe":
        return cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(image)
    return equalise(image) if settings.equalise == "global" else image


def _downsize(image: np.ndarray, settings: PrepareSettings) -> np.ndarray:
    factor = settings.downsize
    if factor == 1:
        return image
    size = [max(1, (side + factor // 2) // factor) for side in image.shape[::-1]]
    return cv2.resize(image, size, interpolation=INTERPOLATION[settings.interpolation])


def render(content: bytes, kind: str, settings: PrepareSettings) -> tuple[np.ndarray, dict]:
    """Grey pixels before any refining, and facts, of the bytes of a 'dicom', 'jpg' or 'png' file (see images.load)."""
    if kind == "dicom":
        return dicom.read(content, settings.voi, settings.bits, settings.polarity)
    return images.read(content, settings.bits)


def convert(job: Job, task: Task) -> dict[str, Any]:
    """Write the image and masks of one file; return its part of the manifest, or {'reason': ...}.

    Only reading the source can reject a file. Whatever goes wrong with writing is an OSError and stops the run.
    """
    cv2.setNumThreads(1)  # the processes share the cores already
    try:
        if task.row.view in dicom.OTHER_VIEWS:
            raise Rejected("the labels CSV says that it is not a frontal view")
        kind, source = images.load(job.source / task.file)
        picture, facts = render(source, kind, job.settings)
        masks = {name: _mask(mask, picture.shape) for name, mask in task.row.masks().items()}
        identifiers = facts["identifiers"]
        uid = identifiers.get("sop_instance_uid", "")
        day = identifiers.get("acquired") if job.settings.dates == "shifted" else None
        patient, patient_from = _patient(task, identifiers.get("patient_id", ""))
    except Rejected as rejected:
        return {"reason": str(rejected)}
    text = burned_in.find(picture) if job.settings.burned_in != "ignore" else []
    if text and job.suspects:
        with paths.whole(job.suspects / f"{task.image_id}.png") as crop:
            crop.write_bytes(images.encode(burned_in.crop(picture, text), "png"))
    if text and job.settings.burned_in == "refuse":
        return {"reason": "its pixels seem to show text (burned_in = refuse)", "suspected_text": len(text)}
    image = refine(picture, job.settings)
    content = images.encode(image, job.settings.format, job.settings.quality)
    name = f"images/{task.image_id}.{job.settings.format}"
    if job.folder:
        (job.folder / name).write_bytes(content)
    height, width = image.shape
    for shown, mask in masks.items():
        share = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
        small = np.where(share >= 255 * COVERED[shown], 255, 0).astype(np.uint8)
        if job.folder:
            (job.folder / f"masks/{task.image_id}_{shown}.png").write_bytes(images.encode(small, "png"))
    spacing = facts["spacing_mm"]
    return {
        "image_id": task.image_id,
        "file": name,
        "patient_id": pseudonyms.patient_id(job.key, patient),
        "label": task.row.label,
        "stage": task.row.stage,
        "width": width,
        "height": height,
        "original_width": facts["width"],
        "original_height": facts["height"],
        "bits": facts["bits"],
        "photometric": facts["photometric"],
        "view": task.row.view if task.row.view in dicom.FRONTAL_VIEWS else facts["view"],
        "spacing_mm": round(spacing * facts["width"] / width, 4) if spacing else "",
        "acquired": pseudonyms.shifted(job.key, patient, day).isoformat()
        if day and job.settings.dates == "shifted"
        else "",
        "suspected_text": len(text),
        "source_sha256": hashlib.sha256(source).hexdigest(),
        "sha256": hashlib.sha256(content).hexdigest(),
        "uid": pseudonyms.digest(job.key, "instance", uid.encode("utf-8", "surrogateescape"))[:16] if uid else "",
        "patient_from": patient_from,
        "body_part": facts["body_part"],
    }


def _patient(task: Task, named: str) -> tuple[str, str]:
    """Whose image it is, and where that is known from."""
    if task.row.patient:
        return task.row.patient, "the labels CSV"
    return (named, "DICOM PatientID") if named else ("file " + task.file, "nothing: each image its own patient")


def keep_example(job: Job, task: Task) -> bool:
    """Write the radiograph of an accepted file as it was read, so that Figure 1 can be rebuilt step by step."""
    try:
        kind, source = images.load(job.source / task.file)
        picture, _ = render(source, kind, job.settings)
    except Rejected:
        return False
    (job.folder / f"examples/{task.image_id}.png").write_bytes(images.encode(picture, "png"))
    return True


def _mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    mask = images.decode(images.load(path)[1])
    if mask.shape != shape:
        raise Rejected("its mask has another size or is not grey")
    return np.where(mask > np.iinfo(mask.dtype).max // 2, 255, 0).astype(np.uint8)


def convert_all(job: Job, tasks: Iterable[Task], workers: int) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Each task with what `convert` returns for it, as they end; one that ends its process is rejected too."""
    for task, outcome in processes.outcomes(partial(convert, job), tasks, workers, imports=LOADED):
        yield task, {"reason": outcome.reason} if isinstance(outcome, processes.Lost) else outcome


def keep_examples(job: Job, tasks: Iterable[Task]) -> None:
    """`keep_example` for each task; ValueError if a source file can no longer be read."""
    for _, kept in processes.outcomes(partial(keep_example, job), tasks, 1, imports=LOADED):
        if kept is not True:
            raise ValueError("a source file has changed while it was prepared: run the same command again")
