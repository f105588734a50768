"""The phantom as a hospital would deliver it: DICOM full of invented identifiers, with labels and masks beside."""

import csv
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from pneumo_nb import paths, processes
from pneumo_nb.phantom.radiograph import VERSION, Phantom, labels, refuse_size, render

FAMILY = ("Mockford", "Fakely", "Sampleton", "Phantomas", "Dummerby", "Pretendson", "Fictius", "Nonesuch")
GIVEN = {
    "F": ("Vera", "Imagina", "Fabula", "Chimera", "Nova", "Virtua", "Mira", "Simula"),
    "M": ("Hypo", "Pseudo", "Placebo", "Nemo", "Fingus", "Quasi", "Ersatz", "Mendax"),
}


def write(
    folder: str | Path,
    patients: int = 706,
    positives: int = 142,
    width: int = 2776,
    height: int = 2876,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a data set of synthetic radiographs, whole or not at all; the same arguments give the same bytes.

    `folder` gets radiographs/*.dcm, masks/lungs/*.png and masks/opacities/*.png (0 and 255), labels.csv (file, label,
    patient_id, stage, lung_mask, opacity_mask) and phantom.json. A folder finished with these settings is left alone.
    `workers` processes share the work (as many as there are cores; 1 uses none); `progress(done, patients)` is called
    after each radiograph. ValueError, in one line, for impossible numbers and for a folder that holds something else.
    """
    folder, truth = Path(folder), labels(patients, positives, seed)
    refuse_size(width, height)
    settings = {
        "generator": "pneumo_nb.phantom",
        "version": VERSION,
        "patients": patients,
        "positives": positives,
    }
    settings |= {"width": width, "height": height, "seed": seed}
    if folder.exists():
        _refuse_other(folder, settings)
        return folder
    with paths.whole(folder) as beside:
        for part in ("radiographs", "masks/lungs", "masks/opacities"):
            (beside / part).mkdir(parents=True)
        tasks = [(beside, index, bool(label), width, height, seed) for index, label in enumerate(truth)]
        rows = []
        for row in _done(tasks, workers or _cores()):
            rows.append(row)
            if progress:
                progress(len(rows), patients)
        with (beside / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["file", "label", "patient_id", "stage", "lung_mask", "opacity_mask"])
            table.writerows(sorted(rows))
        (beside / "phantom.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8", newline="\n")
    return folder


def _refuse_other(folder: Path, settings: dict) -> None:
    try:
        found = json.loads((folder / "phantom.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"{folder.name!r} exists and is no finished phantom: name a new folder") from None
    if found != settings:
        names = sorted(name for name in settings if not isinstance(found, dict) or found.get(name) != settings[name])
        raise ValueError(
            f"{folder.name!r} holds a phantom of another {', '.join(names)}: name a new folder or remove it"
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _done(tasks: list[tuple], workers: int) -> Iterator[tuple]:
    """A row of the table for each task, as the radiographs get written."""
    if workers <= 1 or len(tasks) <= 1:
        yield from map(_write_one, tasks)
        return
    # spawned, not forked: a notebook's kernel has threads
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker) as pool:
        yield from pool.map(_write_one, tasks)


def _start_worker() -> None:
    cv2.setNumThreads(1)  # there are as many processes as cores
    threading.Thread(target=processes.leave_with_parent, daemon=True).start()


def _write_one(task: tuple) -> tuple:
    folder, index, positive, width, height, seed = task
    phantom = render(index, positive, width, height, seed)
    header = _header(phantom, index, seed)
    name = f"{header.PatientID}_{header.StudyDate}"
    files = [f"radiographs/{name}.dcm", f"masks/lungs/{name}.png", f"masks/opacities/{name}.png"]
    header.save_as(folder / files[0], enforce_file_format=True)
    for file, mask in zip(files[1:], (phantom.lungs, phantom.opacities), strict=True):
        _, content = cv2.imencode(".png", mask * np.uint8(255), [cv2.IMWRITE_PNG_COMPRESSION, 1])
        (folder / file).write_bytes(content)
    return files[0], phantom.label, header.PatientID, phantom.stage, *files[1:]


def _header(phantom: Phantom, index: int, seed: int):
    """The radiograph as a Digital X-Ray image for presentation (PS3.3 A.26), full of invented identifiers."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = _uid(seed, index, "image")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    header.SpecificCharacterSet = "ISO_IR 192"
    header.StudyInstanceUID, header.SeriesInstanceUID = _uid(seed, index, "study"), _uid(seed, index, "series")
    for keyword, value in (_acquisition(phantom) | _identifiers(phantom, index, seed)).items():
        setattr(header, keyword, value)
    private = header.private_block(0x0011, "PNEUMO_NB INVENTED", create=True)
    private.add_new(0x01, "LO", f"Invented home phone +00 555 {header.PatientID[3:]}")
    private.add_new(0x02, "PN", str(header.PatientName))
    header.PixelData = phantom.pixels.astype("<u2").tobytes()
    header["PixelData"].VR = "OW"
    return header


def _uid(seed: int, index: int, what: str) -> str:
    """A UID of the form 2.25.<128 bits> that follows from what it names."""
    name = f"pneumo_nb phantom {VERSION} {seed} {index} {what}"
    return f"2.25.{int.from_bytes(hashlib.sha256(name.encode()).digest()[:16])}"


def _acquisition(phantom: Phantom) -> dict:
    """The attributes that say what the picture is and how it is to be shown."""
    height, width = phantom.pixels.shape
    inverse = phantom.photometric == "MONOCHROME1"
    spacing = [f"{phantom.spacing_mm:.6f}"] * 2
    return {
        "Modality": "DX", "PresentationIntentType": "FOR PRESENTATION", "ImageType": ["DERIVED", "PRIMARY"],
        "DerivationDescription": "Simulated", "SeriesNumber": 1, "InstanceNumber": 1, "SeriesDescription": "CHEST PA",
        "BodyPartExamined": "CHEST", "ViewPosition": "PA", "PatientOrientation": ["L", "F"], "ImageLaterality": "U",
        "AnatomicRegionSequence": [_code("51185008", "SCT", "Chest")], "ViewCodeSequence": [_view()],
        "PatientOrientationCodeSequence": [_code("10904000", "SCT", "Erect")], "Laterality": None,
        "AcquisitionContextSequence": [], "PositionerType": "", "DetectorType": "SCINTILLATOR", "KVP": "120",
        "Manufacturer": "pneumo_nb", "ManufacturerModelName": "phantom", "SoftwareVersions": str(VERSION),
        "Rows": height, "Columns": width, "SamplesPerPixel": 1, "PhotometricInterpretation": phantom.photometric,
        "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0, "ImagerPixelSpacing": spacing,
        "PixelSpacing": spacing, "PixelIntensityRelationship": "LOG",
        "PixelIntensityRelationshipSign": 1 if inverse else -1, "RescaleIntercept": "0", "RescaleSlope": "1",
        "RescaleType": "US", "WindowCenter": str(phantom.window[0]), "WindowWidth": str(phantom.window[1]),
        "PresentationLUTShape": "INVERSE" if inverse else "IDENTITY",
        "LossyImageCompression": "00", "BurnedInAnnotation": "NO", "PatientPosition": None,
    }  # fmt: skip


def _code(value: str, scheme: str, meaning: str):
    from pydicom.dataset import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _view():
    view = _code("399348003", "SCT", "postero-anterior")
    view.ViewModifierCodeSequence = []
    return view


def _identifiers(phantom: Phantom, index: int, seed: int) -> dict:
    """What a hospital writes into a header and what must not leave it; all of it invented, none of it random."""
    from pydicom.dataset import Dataset

    rng = np.random.default_rng([seed, index, 0x1D])
    number = (index * 7919 + seed * 104_729 + 4211) % 1_000_000  # one to one for up to a million patients
    given, physician = (
        GIVEN[phantom.sex][rng.integers(8)],
        f"{FAMILY[rng.integers(8)]}^{GIVEN['F'][rng.integers(8)]}^^Dr",
    )
    name, patient = f"{FAMILY[rng.integers(8)]}{number}^{given}", f"PX-{number:06d}"
    year, age = int(rng.integers(2012, 2020)), int(rng.integers(32, 78))
    date = f"{year}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}"
    other, request = Dataset(), Dataset()
    other.PatientID, other.TypeOfPatientID, other.IssuerOfPatientID = f"NHX{number * 3 + 17}", "TEXT", "Nowhere Health"
    request.RequestedProcedureID, request.ScheduledProcedureStepID = f"RQ{number}", f"ST{number}"
    request.RequestedProcedureDescription = f"CHEST PA for {name.replace('^', ' ')}"
    return {
        "PatientName": name, "PatientID": patient, "PatientSex": phantom.sex, "PatientAge": f"{age:03d}Y",
        "PatientBirthDate": f"{year - age - 1}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}",
        "PatientAddress": f"{number % 97 + 1} Imaginary Lane, Nowhere",
        "PatientTelephoneNumbers": f"+00 555 {number:06d}",
        "PatientMotherBirthName": f"{FAMILY[rng.integers(8)]}{number}", "OtherPatientIDsSequence": [other],
        "Occupation": f"Miner, Pit {number % 13 + 1}", "PatientComments": f"Invented patient {name.replace('^', ' ')}",
        "StudyDate": date, "SeriesDate": date, "AcquisitionDate": date, "ContentDate": date,
        "StudyTime": f"{rng.integers(8, 18):02d}{rng.integers(60):02d}00",
        "ContentTime": f"{rng.integers(8, 18):02d}0500",
        "StudyID": f"S{number}", "AccessionNumber": f"ACC{number:08d}", "StudyDescription": "CHEST PA",
        "ReferringPhysicianName": physician, "PerformingPhysicianName": f"{FAMILY[rng.integers(8)]}^Radia^^Dr",
        "OperatorsName": f"{FAMILY[rng.integers(8)]}^Tech", "InstitutionName": "Imaginary Dust Hospital",
        "InstitutionAddress": "1 Nowhere Road, Imaginary Town", "InstitutionalDepartmentName": "Fictional Radiology",
        "StationName": f"DXROOM{number % 3 + 1}", "DeviceSerialNumber": f"SN{number % 3 + 77001}",
        "RequestAttributesSequence": [request], "ImageComments": f"Shown to {physician.split('^')[0]}, see {patient}",
    }  # fmt: skip
