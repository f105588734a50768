"""How radiographs come with labels elsewhere -> the columns that labels.read checks: published sets, folders, own CSVs.

Only label files as published are needed. Where each layout was read up stands beside it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

PARTS = {"train": "train", "training": "train", "test": "test", "val": "validation", "validation": "validation"}


@dataclass(frozen=True)
class Layout:
    """Where the columns of labels.read are to be found, and which classes are label 1 and 0."""

    columns: dict[str, str] = field(default_factory=dict)  # ours -> theirs; others keep their names
    positive: tuple[str, ...] = ()  # classes of label 1; none: the labels are 0 and 1 already
    negative: tuple[str, ...] = ()  # classes of label 0; none: all that are not positive
    between: str = ""  # what stands between the classes of one image
    published: bool = False  # files are named without their folders, and rows without a file are let pass
    folders: bool = False  # the class is the name of the folder; there is no CSV
    views: tuple[str, ...] = ()  # the only projections that are chest radiographs; none: all


LAYOUTS = {
    # images/<class>/x.jpg, or train/<class>/x.jpg and test/<class>/x.jpg: how sets of two classes are often handed out.
    "classes": Layout(folders=True),
    # NIH ChestX-ray14 (Wang et al., CVPR 2017), Data_Entry_2017.csv and Data_Entry_2017_v2020.csv: "Image Index" is a
    # bare file name (images_001/images/00000001_000.png), "Finding Labels" has "|" between findings.
    "nih": Layout(
        {"file": "Image Index", "label": "Finding Labels", "patient_id": "Patient ID", "view": "View Position"},
        between="|",
        published=True,
    ),
    # PadChest (Bustos et al., Medical Image Analysis 2020), PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv, as
    # torchxrayvision's PC_Dataset reads it: "Labels" is a list as Python prints it; L is a lateral view.
    "padchest": Layout(
        {"file": "ImageID", "label": "Labels", "patient_id": "PatientID", "view": "Projection"},
        between=",",
        published=True,
        views=("PA", "AP", "AP_horizontal", "L"),
    ),
    # Silicodata (Akhter et al., Harvard Dataverse 2025, doi:10.7910/DVN/QH199J): its description names four classes.
    # How its label files are laid out could not be looked up: name the columns, or sort the images into class folders.
    "silicodata": Layout(
        positive=("silicosis", "silicotuberculosis"), negative=("healthy", "normal", "tuberculosis"), published=True
    ),
}


def chosen(
    name: str = "", columns: str = "", positive: str = "", negative: str = "", csv: bool = True
) -> Layout | None:
    """The layout of that name with these changes, or None if there is nothing to change; texts as on the command line.

    `columns` is "file=Path,label=Dx", the others are "A,B". ValueError: a wrong name, or classes that are missing.
    """
    if not (name or columns or positive or negative):
        return None
    if name and name not in LAYOUTS:
        raise ValueError(f"there is no layout {name!r}; the layouts are {', '.join(LAYOUTS)}")
    layout = LAYOUTS.get(name, Layout())
    pairs = [pair.partition("=") for pair in _listed(columns)]
    if not all(ours and theirs for ours, _, theirs in pairs):
        raise ValueError("--columns needs pairs such as file=Path,label=Dx,patient_id=Subject")
    layout = replace(layout, columns=layout.columns | {ours.strip(): theirs.strip() for ours, _, theirs in pairs})
    if positive or negative:
        layout = replace(layout, positive=_listed(positive), negative=_listed(negative))
    if name == "silicodata" and not csv:
        layout = replace(layout, folders=True)
    if not layout.positive and (layout.published or layout.negative):
        raise ValueError(f"which classes are label 1? layout {name or 'of your CSV'} needs --positive CLASS[,CLASS]")
    return layout


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def from_folders(files: Iterable[str], layout: Layout) -> list[list[str]]:
    """A table with a row for each file whose folder is one of the classes; a folder above may name the part."""
    table = [["file", "label", "split"]]
    for file in files:
        folders = PurePosixPath(file).parts[:-1]
        label = _label(folders[-1:], layout)
        part = next((PARTS[name.lower()] for name in folders if name.lower() in PARTS), "")
        if label and file == file.strip() and "\\" not in file:  # odd names are rejected as files without a row
            table.append([file, label, part])
    return table


def from_csv(table: list[list[str]], files: Iterable[str], layout: Layout) -> list[list[str]]:
    """The table with our columns; a row that is not wanted becomes empty, so that all others keep their numbers."""
    named = {theirs: ours for ours, theirs in layout.columns.items()}
    missing = sorted(theirs for theirs in named if not table or theirs not in table[0])
    if missing:
        raise ValueError(f"the labels CSV has no column {', '.join(missing)} in row 1: see --layout and --columns")
    taken = set(layout.columns)
    header = [named.get(name, name if name not in taken else f"other {name}") for name in table[0]]
    places = _places(files) if layout.published else {}
    return [header] + [_cells(header, cells, places, number, layout) for number, cells in enumerate(table[1:], start=2)]


def _places(files: Iterable[str]) -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    for file in files:
        places.setdefault(PurePosixPath(file).name, []).append(file)
    return places


def _cells(header: list[str], cells: list[str], places: dict, number: int, layout: Layout) -> list[str]:
    if len(cells) != len(header):
        return cells  # labels.read says what is wrong
    row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
    if layout.published:
        found = places.get(PurePosixPath(row.get("file", "")).name, [])
        if len(found) > 1:
            raise ValueError(f"the labels CSV: row {number} names a file that is in SOURCE {len(found)} times")
        if not found or not row.get("label") or (layout.views and row.get("view") not in layout.views):
            return []
        row["file"] = found[0]
    if layout.positive and row.get("label"):
        label = _label(_classes(row["label"], layout), layout)
        if not label:
            return []
        row["label"] = label
    if row.get("view") == "AP_horizontal":
        row["view"] = "AP"
    return list(row.values())


def _classes(text: str, layout: Layout) -> list[str]:
    parts = text.strip("[] ").split(layout.between) if layout.between else [text]
    return [re.sub(r"^['\"]|['\"]$", "", part.strip()).strip() for part in parts]


def _label(classes: Iterable[str], layout: Layout) -> str:
    """1 or 0 for an image of these classes; '' if it is of neither. A positive class outweighs a negative one."""
    names = {name.lower() for name in classes} - {""}
    if not layout.positive:
        return next(iter(names & {"0", "1"}), "")
    if names & {name.lower() for name in layout.positive}:
        return "1"
    wanted = names & {name.lower() for name in layout.negative} if layout.negative else names
    return "0" if wanted else ""
