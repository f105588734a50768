"""A source folder and its labels CSV, looked through before any work starts."""

import csv
import io
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pneumo_nb.prepare import layouts

PARTS = ("train", "test", "validation")
MILLIMETRES = r"\d{1,3}(\.\d{1,3})?", "a number of millimetres"
DISEASE = {  # optional columns of what is known of the disease: the cells that are right, in a pattern and in words
    "stage": (r"(0|1|2|3|4|I|II|III|IV)\+?", "0 to 4 or I to IV"),
    "profusion": (r"[0-3]( [0-3]){5}", "six grades 0 to 3, such as 1 1 0 1 0 0"),
    "letter": (r"[pqrstu]", "p, q, r, s, t or u"),
    "large": (r"\d{1,3}", "a number of large opacities"),
    "diameter_mm": MILLIMETRES,
    "largest_mm": MILLIMETRES,
}
MASKS = {"lungs": "lung_mask", "opacities": "opacity_mask"}
RECORD = "phantom.json"  # what the phantom writes about itself beside its labels.csv
SHOWN = 3  # faulty rows that a refusal lists before it only counts


@dataclass(frozen=True)
class Row:
    """What the labels CSV says about one file; '' or None where it says nothing."""

    label: str = ""
    patient: str = ""
    split: str = ""
    view: str = ""
    disease: dict[str, str] = field(default_factory=dict)  # by column, those of DISEASE that say something
    masks: dict[str, Path] = field(default_factory=dict)  # by what they show: lungs, opacities


def find(source: Path, besides: Iterable[Path] = ()) -> list[str]:
    """Paths relative to `source` of every input, sorted as bytes.

    An input is whatever under `source` is not a folder: also links, which are not followed, and files of a wrong kind,
    so that each of them is accounted for. Not inputs: the files `besides` (the labels CSV and the masks that it names)
    and the `phantom.json` of a phantom. ValueError: there is no such folder, or a folder in it cannot be opened.
    """
    if not source.is_dir():
        raise ValueError(f"there is no folder {str(source)!r}: SOURCE must be a folder of DICOM, JPG or PNG files")
    found, hidden = [], {*besides, source / RECORD}
    for folder, inner, names in os.walk(source, onerror=_refuse_folder):
        here = Path(folder)
        links = [name for name in inner if (here / name).is_symlink()]
        found += [str((here / name).relative_to(source)) for name in names + links if here / name not in hidden]
    return sorted(found, key=os.fsencode)


def _refuse_folder(error: OSError) -> None:
    raise ValueError(f"a folder within SOURCE cannot be opened ({type(error).__name__}): allow reading it") from None


def read(
    path: Path | None, source: Path, given_split: bool = False, layout: layouts.Layout | None = None
) -> dict[str, Row]:
    """The labels CSV -> a Row for each file, by the file's path relative to `source`.

    A `layout` says where it is laid out otherwise; one of folders needs no CSV.

    Columns: file and label (0 or 1); if wanted patient_id, view, those of DISEASE, lung_mask, opacity_mask, and split
    (train, test, validation; needed and read only for `given_split`). All others are ignored. Paths are relative to
    the CSV's folder, or else to `source`. One ValueError names the first faulty rows by number (the header is row 1),
    never by content, and counts the others.
    """
    files = find(source, [path] if path else [])
    if layout and layout.folders:
        table, path = layouts.from_folders(files, layout), source / "folders"
    else:
        table = layouts.from_csv(_table(path), files, layout) if layout else _table(path)
    needed = {"file", "label"} | ({"split"} if given_split else set())
    if not table or not needed <= set(table[0]):
        raise ValueError(f"the labels CSV needs the columns {', '.join(sorted(needed))}, separated by commas, in row 1")
    if len(table) == 1:
        raise ValueError("the labels CSV has a header and no rows")
    known = set(files)
    rows: dict[str, Row] = {}
    first_seen: dict[str, int] = {}
    faults = []
    for number, cells in enumerate(table[1:], start=2):
        if not any(cells):
            continue
        try:
            file, row = _row(table[0], cells, path.parent, source, known, given_split)
            if file in rows:
                twice = "names the file of" if rows[file].label == row.label else "contradicts"
                raise ValueError(f"{twice} row {first_seen[file]}: one row for each file")
            rows[file], first_seen[file] = row, number
        except ValueError as fault:
            faults.append(f"row {number} {fault}")
    if faults:
        more = f"; and {len(faults) - SHOWN} more rows" if len(faults) > SHOWN else ""
        raise ValueError("the labels CSV: " + "; ".join(faults[:SHOWN]) + more)
    _refuse_one_sided(rows.values(), given_split)
    return rows


def _table(path: Path) -> list[list[str]]:
    """Cells of the CSV, the header first; empty rows are kept, so that numbers are those of a spreadsheet."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"the labels CSV {path.name!r} cannot be opened ({type(error).__name__})") from None
    try:
        table = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        raise ValueError(f"the labels CSV is not UTF-8 text in row {row}: save it as 'CSV UTF-8'") from None
    except csv.Error:
        raise ValueError("the labels CSV has a broken quotation or a NUL byte: save it as 'CSV UTF-8' again") from None
    while table and not any(table[-1]):
        table.pop()
    if table:
        table[0] = [name.strip() for name in table[0]]
        if len(set(table[0])) < len(table[0]):
            raise ValueError("the labels CSV has two columns of one name in row 1")
    return table


def _row(
    header: list[str], cells: list[str], base: Path, source: Path, known: set[str], given_split: bool
) -> tuple[str, Row]:
    """One row, checked; each ValueError reads on from 'row 7 ...'."""
    if len(cells) != len(header):
        raise ValueError(f"has {len(cells)} cells, the header has {len(header)}")
    value = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    places = [folder / _downwards(value["file"]) for folder in (base, source)]
    inside = [str(place.relative_to(source)) for place in places if place.is_relative_to(source)]
    file = next((place for place in inside if place in known), None)
    if file is None:
        raise ValueError("names a file that is not in SOURCE")
    if value["label"] not in ("0", "1"):
        raise ValueError("has no label 0 or 1")
    if "patient_id" in header and not value["patient_id"]:
        raise ValueError("has no patient_id: fill in all of them, or leave the column out")
    part, view = value.get("split", ""), value.get("view", "").upper()
    disease = {column: value[column] for column in DISEASE if value.get(column)}
    for column, text in disease.items():
        pattern, right = DISEASE[column]
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"has a {column} that is not {right}")
    if given_split and part not in PARTS:
        raise ValueError("has a split that is not train, test or validation")
    masks = {shown: _mask(value[column], base, source) for shown, column in MASKS.items() if value.get(column)}
    return file, Row(value["label"], value.get("patient_id", ""), part if given_split else "", view, disease, masks)


def _downwards(text: str) -> str:
    """`text` if it is a path that leads down from wherever it starts, else ValueError."""
    if not text or "\0" in text or text[0] in "/\\" or ".." in text.replace("\\", "/").split("/"):
        raise ValueError("has no path within the source folder: no '..' and not absolute")
    return text


def _mask(text: str, base: Path, source: Path) -> Path:
    for folder in (base, source):
        path = folder / _downwards(text)
        if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            return path
    raise ValueError("names a mask that is not there")


def _refuse_one_sided(rows: Iterable[Row], given_split: bool) -> None:
    found = {(row.label, row.split) for row in rows}
    for label in ("0", "1"):
        if label not in {label for label, _ in found}:
            raise ValueError(f"the labels CSV has no row with label {label}: both classes are needed")
        for part in ("train", "test") if given_split else ():
            if (label, part) not in found:
                raise ValueError(f"the labels CSV has no row with label {label} and split {part}")
