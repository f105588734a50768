"""One source file -> one prepared image (Section 2.1), and many of them on all cores."""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pneumo_nb import dicom, images, pseudonyms
from pneumo_nb.dicom import Rejected
from pneumo_nb.labels import Row
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


@dataclass(frozen=True)
class Job:
    """What all files of a dataset have in common."""

    source: Path
    folder: Path  # the prepared folder in the making
    settings: PrepareSettings
    key: bytes


@dataclass(frozen=True)
class Task:
    """One file to convert."""

    file: str  # relative to the source
    image_id: str
    row: Row


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


def render(path: Path, settings: PrepareSettings) -> tuple[np.ndarray, dict, str]:
    """Read a source file as grey pixels before any refining: the picture, its facts, and 'dicom', 'jpg' or 'png'."""
    kind = images.kind(path)
    if kind == "dicom":
        return *dicom.read(path, settings.voi, settings.bits), kind
    return *images.read(path, settings.bits), kind


def convert(job: Job, task: Task) -> dict[str, Any]:
    """Write the image and masks of one file; return its part of the manifest, or {'reason': ...}.

    Only reading the source can reject a file. Whatever goes wrong with writing is an OSError and stops the run.
    """
    path = job.source / task.file
    try:
        if task.row.view in dicom.OTHER_VIEWS:
            raise Rejected("the labels CSV says that it is not a frontal view")
        picture, facts, kind = render(path, job.settings)
        masks = {name: _mask(mask, picture.shape) for name, mask in task.row.masks().items()}
        with path.open("rb") as file:
            source_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        patient, patient_from = _patient(task, path if kind == "dicom" else None)
    except Rejected as rejected:
        return {"reason": str(rejected)}
    except (OSError, MemoryError) as error:
        return {"reason": f"it cannot be read ({type(error).__name__})"}
    image = refine(picture, job.settings)
    content = images.encode(image, job.settings.format, job.settings.quality)
    name = f"images/{task.image_id}.{job.settings.format}"
    (job.folder / name).write_bytes(content)
    height, width = image.shape
    for shown, mask in masks.items():
        share = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
        small = np.where(share >= 255 * COVERED[shown], 255, 0).astype(np.uint8)
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
        "source_sha256": source_sha256,
        "sha256": hashlib.sha256(content).hexdigest(),
        "picture": hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).hexdigest(),
        "patient_from": patient_from,
        "body_part": facts["body_part"],
    }


def _patient(task: Task, dicom_file: Path | None) -> tuple[str, str]:
    """Whose image it is, and where that is known from."""
    if task.row.patient:
        return task.row.patient, "the labels CSV"
    named = dicom.patient_id(dicom_file) if dicom_file else ""
    return (named, "DICOM PatientID") if named else ("file " + task.file, "nothing: each image its own patient")


def _mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    mask = images.decode(path.read_bytes())
    if mask.shape != shape:
        raise Rejected("its mask has another size or is not grey")
    return np.where(mask > np.iinfo(mask.dtype).max // 2, 255, 0).astype(np.uint8)


def convert_all(job: Job, tasks: Iterable[Task], workers: int) -> Iterator[dict[str, Any]]:
    """What `convert` returns for each task, in order; memory does not grow with the number of tasks.

    More than one worker are separate processes, each started afresh (a fork of a process with threads may hang).
    """
    if workers == 1:
        yield from (convert(job, task) for task in tasks)
        return
    fresh = multiprocessing.get_context("spawn")
    waiting: deque = deque()
    with ProcessPoolExecutor(workers, mp_context=fresh, initializer=_start_worker) as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(convert, job, task))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _start_worker() -> None:
    cv2.setNumThreads(1)  # the processes share the cores already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    parent = multiprocessing.parent_process()

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()  # a killed run leaves no process behind
