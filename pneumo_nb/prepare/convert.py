"""One source file -> one prepared image (Section 2.1), and many of them in guarded processes on all cores."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pneumo_nb import paths, processes
from pneumo_nb.prepare import burned_in, dicom, images, pseudonyms
from pneumo_nb.prepare.images import Rejected, refuse
from pneumo_nb.prepare.manifest import PLACEHOLDER, UNKNOWN
from pneumo_nb.prepare.sources import DISEASE, Row
from pneumo_nb.settings import COVERED, PrepareSettings

# What is written in place of a patient's name or number: by anonymisers, exports and people.
NOBODY = re.compile(
    "(an[oö]n[a-zé]*|unknown|unk|unbekannt|none|null|nan|n ?a|nil|no ?(name|id)|test|patient( ?(id|name))?|x+"
    "|(de ?)?(identified|personali[sz]ed)|0{3,}|9{3,}|removed|deleted|redacted|hidden|subject|id|)",
    re.I,
)
LOADED = [__name__, "pydicom.pixels"]  # before the first file is read


@dataclass(frozen=True)
class Job:
    """What all files of a dataset have in common."""

    source: Path
    folder: Path | None  # the prepared folder in the making; None: nothing is written
    settings: PrepareSettings
    key: bytes
    suspects: Path | None = None  # the folder for crops of what seems to be text
    images: str = "images"  # the folder within `folder` that images are written to


@dataclass(frozen=True)
class Task:
    """One file to convert."""

    file: str  # relative to the source
    image_id: str
    row: Row | None  # None: the labels have none for it
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
    return np.rint((not_brighter - darkest).clip(0) * (white / (image.size - darkest))).astype(image.dtype)[image]


def refine(image: np.ndarray, settings: PrepareSettings) -> np.ndarray:
    """Section 2.1's pre-processing: equalise and downsize a (height, width) radiograph, in the order of `settings`."""
    steps = (_downsize, _equalise) if settings.order == "downsize_first" else (_equalise, _downsize)
    return steps[1](steps[0](image, settings), settings)


def _equalise(image: np.ndarray, settings: PrepareSettings) -> np.ndarray:
    if settings.equalise == "clahe":
        return cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(image)
    return equalise(image) if settings.equalise == "global" else image


def _downsize(image: np.ndarray, settings: PrepareSettings) -> np.ndarray:
    size = [max(1, (side + settings.downsize // 2) // settings.downsize) for side in image.shape[::-1]]
    return cv2.resize(image, size, interpolation=getattr(cv2, f"INTER_{settings.interpolation.upper()}"))


def convert(job: Job, task: Task) -> dict[str, Any]:
    """Write the image and masks of one file; return its part of the manifest, or {'reason': ...}.

    Only reading the source can reject a file. Whatever goes wrong with writing is an OSError and stops the run.
    """
    cv2.setNumThreads(1)  # the processes share the cores already
    try:
        picture, entry = _read(job, task)
        masks = {shown: _mask(mask, picture.shape) for shown, mask in task.row.masks.items()}
    except Rejected as rejected:
        return {"reason": str(rejected)}
    text = burned_in.find(picture) if job.settings.burned_in != "ignore" else []
    if text and job.suspects:
        paths.write(job.suspects / f"{task.image_id}.png", images.encode(burned_in.crop(picture, text), "png"))
    if text and job.settings.burned_in == "refuse":
        return {"reason": "its pixels seem to show text (burned_in = refuse)", "suspected_text": len(text)}
    return entry | {"suspected_text": len(text)} | _write(job, task, picture, masks, entry["spacing_mm"])


def convert_all(job: Job, tasks: Iterable[Task], workers: int) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Each task with what `convert` tells of it, in the order in which they end, from so many guarded processes."""
    for task, told in processes.spread(partial(convert, job), tasks, workers, imports=LOADED):
        yield task, {"reason": told.reason} if isinstance(told, processes.Lost) else told


def _read(job: Job, task: Task) -> tuple[np.ndarray, dict[str, Any]]:
    """The radiograph, and what its manifest tells of the source; names, dates and UIDs go no further than here."""
    refuse(task.row is None, "it has no row in the labels CSV")
    refuse(task.row.view in dicom.OTHER_VIEWS, "the labels CSV says that it is not a frontal view")
    (kind, content), how = images.load(job.source / task.file), job.settings
    if kind == "dicom":
        picture, facts = dicom.read(content, how.voi, how.bits, how.polarity)
    else:
        picture, facts = images.read(content, how.bits)
    identifiers = facts.pop("identifiers")
    patient, patient_from = _patient(task, identifiers.get("patient_id", ""))
    day = identifiers.get("acquired") if job.settings.dates == "shifted" else None
    uid = identifiers.get("sop_instance_uid")
    return picture, facts | dict.fromkeys(DISEASE, "") | task.row.disease | {
        "patient_id": pseudonyms.patient_id(job.key, patient),
        "patient_from": patient_from,
        "label": task.row.label,
        "split": task.row.split,
        "original_width": facts["width"],
        "original_height": facts["height"],
        "view": task.row.view if task.row.view in dicom.FRONTAL_VIEWS else facts["view"],
        "acquired": pseudonyms.shifted(job.key, patient, day).isoformat() if day else "",
        "source_sha256": hashlib.sha256(content).hexdigest(),
        "uid": pseudonyms.digest(job.key, "instance", uid)[:16] if uid else "",
    }


def _patient(task: Task, named: str) -> tuple[str, str]:
    """Whose image it is, and where that is known from."""
    patient = task.row.patient or named
    if not patient:
        return "file " + task.file, UNKNOWN
    if NOBODY.fullmatch(" ".join(re.split(r"[\W_]+", patient)).strip()):
        return patient, PLACEHOLDER
    return patient, "the labels CSV" if task.row.patient else "DICOM PatientID"


def _write(job: Job, task: Task, picture: np.ndarray, masks: dict[str, np.ndarray], spacing: float | None) -> dict:
    """Write the refined picture and its masks at the same size; return what the manifest tells of them."""
    image, name = refine(picture, job.settings), f"{job.images}/{task.image_id}.{job.settings.format}"
    height, width = image.shape
    files = {name: images.encode(image, job.settings.format, job.settings.quality)}
    for shown, mask in masks.items():
        share = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
        small = np.where(share >= 255 * COVERED[shown], 255, 0).astype(np.uint8)
        files[f"masks/{task.image_id}_{shown}.png"] = images.encode(small, "png")
    for file, content in files.items() if job.folder else ():
        (job.folder / file).parent.mkdir(exist_ok=True)
        (job.folder / file).write_bytes(content)
    told = {"file": name, "sha256": hashlib.sha256(files[name]).hexdigest(), "width": width, "height": height}
    return told | {"spacing_mm": round(spacing * picture.shape[1] / width, 4) if spacing else ""}


def _mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    mask = images.decode(images.load(path)[1])
    refuse(mask.shape != shape, "its mask has another size or is not grey")
    return np.where(mask > np.iinfo(mask.dtype).max // 2, 255, 0).astype(np.uint8)
