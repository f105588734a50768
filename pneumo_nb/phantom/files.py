"""The phantom as a hospital would deliver it: DICOM full of invented identifiers, with labels and masks beside."""

import csv
import hashlib
import json
from collections.abc import Callable
from functools import partial
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from pneumo_nb import paths, processes
from pneumo_nb.phantom.disease import labels, refuse_mix
from pneumo_nb.phantom.radiograph import VERSION, Phantom, refuse_size, render

FAMILY = ("Mockford", "Fakely", "Sampleton", "Phantomas", "Dummerby", "Pretendson", "Fictius", "Nonesuch")
GIVEN = {
    "F": ("Vera", "Imagina", "Fabula", "Chimera", "Nova", "Virtua", "Mira", "Simula"),
    "M": ("Hypo", "Pseudo", "Placebo", "Nemo", "Fingus", "Quasi", "Ersatz", "Mendax"),
}
COLUMNS = ["file", "label", "patient_id", "stage", "lung_mask", "opacity_mask"]
COLUMNS += ["profusion", "letter", "large", "diameter_mm", "largest_mm"]


def write(
    folder: str | Path,
    patients: int = 706,
    positives: int = 142,
    width: int = 2776,
    height: int = 2876,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    mix: str = "marked",
) -> Path:
    """Write a data set of synthetic radiographs, whole or not at all; the same arguments give the same bytes.

    `folder` gets radiographs/*.dcm, masks/lungs/*.png and masks/opacities/*.png (0 and 255), labels.csv (COLUMNS; see
    `_truth`) and phantom.json. A folder finished with these settings is left alone. `workers` processes share the work
    (by default one for each core); `progress(done, patients)` is called after each radiograph. `mix` is the mix of
    disease among the positives (disease.MIXES); who is positive does not depend on it. ValueError, in one line, for
    impossible numbers and for a folder that holds something else; ChildProcessError: a process that draws ended early.
    """
    folder, positive = Path(folder), labels(patients, positives, seed)
    refuse_size(width, height)
    refuse_mix(mix)
    settings = {"generator": "pneumo_nb.phantom", "version": VERSION, "patients": patients, "positives": positives}
    settings |= {"width": width, "height": height, "seed": seed, "mix": mix}
    if folder.exists():
        _refuse_other(folder, settings)
        return folder
    with paths.whole(folder) as beside:
        for part in ("radiographs", "masks/lungs", "masks/opacities"):
            (beside / part).mkdir(parents=True)
        one, rows = partial(_write_one, beside, width, height, seed, mix), []
        for _, row in processes.spread(one, enumerate(positive), workers or processes.cores(), imports=[__name__]):
            if isinstance(row, processes.Lost):
                raise ChildProcessError(f"a radiograph of the phantom could not be drawn: {row.reason}")
            rows.append(row)
            if progress:
                progress(len(rows), patients)
        with (beside / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *sorted(rows)])
        (beside / "phantom.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8", newline="\n")
    return folder


def _refuse_other(folder: Path, settings: dict) -> None:
    try:
        found = dict(json.loads((folder / "phantom.json").read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError):
        raise ValueError(f"{folder.name!r} exists and is no finished phantom: name a new folder") from None
    if found != settings:
        other = ", ".join(sorted(name for name in settings if found.get(name) != settings[name]))
        raise ValueError(f"{folder.name!r} holds a phantom of another {other}: name a new folder or remove it")


def _write_one(folder: Path, width: int, height: int, seed: int, mix: str, task: tuple[int, int]) -> tuple:
    """Write one radiograph and its masks; returns its row of labels.csv."""
    cv2.setNumThreads(1)  # there are as many processes as cores
    index, positive = task
    phantom = render(index, bool(positive), width, height, seed, mix)
    header = _header(phantom, index, seed)
    name = f"{header.PatientID}_{header.StudyDate}"
    files = [f"radiographs/{name}.dcm", f"masks/lungs/{name}.png", f"masks/opacities/{name}.png"]
    header.save_as(folder / files[0], enforce_file_format=True)
    for file, mask in zip(files[1:], (phantom.lungs, phantom.opacities), strict=True):
        _, content = cv2.imencode(".png", mask * np.uint8(255), [cv2.IMWRITE_PNG_COMPRESSION, 1])
        (folder / file).write_bytes(content)
    return files[0], int(positive), header.PatientID, phantom.disease.stage, *files[1:], *_truth(phantom)


def _truth(phantom: Phantom) -> tuple[str, str, int, str, str]:
    """Profusion, letter, number of large opacities; in mm the median of the small and the largest of all, or ''."""
    found, sizes = phantom.disease, phantom.diameters_mm
    small = sizes[: len(sizes) - found.large]
    median, largest = (f"{f(of):.1f}" if len(of) else "" for f, of in ((np.median, small), (np.max, sizes)))
    return " ".join(map(str, found.profusion)), found.letter, found.large, median, largest


def _header(phantom: Phantom, index: int, seed: int) -> Dataset:
    """The radiograph as a Digital X-Ray image for presentation (PS3.3 A.26), full of invented identifiers."""
    constant = json.loads(resources.files(__package__).joinpath("header.json").read_text(encoding="utf-8"))
    header = _fill(Dataset(), constant | _display(phantom) | _identifiers(phantom, index, seed))
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for level in ("SOP", "Series", "Study"):
        setattr(header, f"{level}InstanceUID", _uid(seed, index, level))
    private = header.private_block(0x0011, "PNEUMO_NB INVENTED", create=True)
    private.add_new(0x01, "LO", f"Invented home phone +00 555 {header.PatientID[3:]}")
    private.add_new(0x02, "PN", str(header.PatientName))
    header.PixelData = phantom.pixels.astype("<u2").tobytes()
    header["PixelData"].VR = "OW"
    return header


def _fill(target: Dataset, elements: dict) -> Dataset:
    """Set DICOM elements by keyword; the items of a sequence are dicts of elements."""
    for keyword, value in elements.items():
        setattr(target, keyword, [_fill(Dataset(), item) for item in value] if keyword.endswith("Sequence") else value)
    return target


def _uid(seed: int, index: int, what: str) -> str:
    """A UID of the form 2.25.<128 bits> that follows from what it names."""
    of = hashlib.sha256(f"pneumo_nb phantom {VERSION} {seed} {index} {what}".encode())
    return f"2.25.{int.from_bytes(of.digest()[:16])}"


def _display(phantom: Phantom) -> dict:
    """The attributes of this picture that say how it is to be shown."""
    height, width = phantom.pixels.shape
    inverse = phantom.photometric == "MONOCHROME1"
    spacing = [f"{phantom.spacing_mm:.6f}"] * 2
    return {
        "Rows": height, "Columns": width, "PhotometricInterpretation": phantom.photometric,
        "ImagerPixelSpacing": spacing, "PixelSpacing": spacing, "SoftwareVersions": str(VERSION),
        "PresentationLUTShape": "INVERSE" if inverse else "IDENTITY",
        "PixelIntensityRelationshipSign": 1 if inverse else -1,
        "WindowCenter": str(phantom.window[0]), "WindowWidth": str(phantom.window[1]),
    }  # fmt: skip


def _identifiers(phantom: Phantom, index: int, seed: int) -> dict:
    """What a hospital writes into a header and what must not leave it; all of it invented, none of it random."""
    rng = np.random.default_rng([seed, index, 0x1D])
    number = (index * 7919 + seed * 104_729 + 4211) % 1_000_000  # one to one for up to a million patients
    given = GIVEN[phantom.sex][rng.integers(8)]
    physician = f"{FAMILY[rng.integers(8)]}^{GIVEN['F'][rng.integers(8)]}^^Dr"
    name, patient = f"{FAMILY[rng.integers(8)]}{number}^{given}", f"PX-{number:06d}"
    year, age = int(rng.integers(2012, 2020)), int(rng.integers(32, 78))
    date = f"{year}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}"
    other = {"PatientID": f"NHX{number * 3 + 17}", "TypeOfPatientID": "TEXT", "IssuerOfPatientID": "Nowhere Health"}
    request = {"RequestedProcedureID": f"RQ{number}", "ScheduledProcedureStepID": f"ST{number}"}
    request["RequestedProcedureDescription"] = f"CHEST PA for {name.replace('^', ' ')}"
    return {
        "PatientName": name, "PatientID": patient, "PatientSex": phantom.sex, "PatientAge": f"{age:03d}Y",
        "PatientBirthDate": f"{year - age - 1}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}",
        "PatientAddress": f"{number % 97 + 1} Imaginary Lane, Nowhere",
        "PatientTelephoneNumbers": f"+00 555 {number:06d}",
        "PatientMotherBirthName": f"{FAMILY[rng.integers(8)]}{number}", "OtherPatientIDsSequence": [other],
        "Occupation": f"Miner, Pit {number % 13 + 1}", "PatientComments": f"Invented patient {name.replace('^', ' ')}",
        "StudyDate": date, "SeriesDate": date, "AcquisitionDate": date, "ContentDate": date,
        "StudyTime": f"{rng.integers(8, 18):02d}{rng.integers(60):02d}00",
        "ContentTime": f"{rng.integers(8, 18):02d}0500", "DeviceSerialNumber": f"SN{number % 3 + 77001}",
        "StudyID": f"S{number}", "AccessionNumber": f"ACC{number:08d}", "ReferringPhysicianName": physician,
        "PerformingPhysicianName": f"{FAMILY[rng.integers(8)]}^Radia^^Dr",
        "OperatorsName": f"{FAMILY[rng.integers(8)]}^Tech", "StationName": f"DXROOM{number % 3 + 1}",
        "RequestAttributesSequence": [request], "ImageComments": f"Shown to {physician.split('^')[0]}, see {patient}",
    }  # fmt: skip
