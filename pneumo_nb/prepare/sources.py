"""What a source says, looked through once before any work: its files, and their labels in a CSV or in folders."""

import csv
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path, PurePosixPath

from pneumo_nb.settings import refuse

PARTS = dict.fromkeys(("train", "training"), "train") | dict.fromkeys(("test", "testing"), "test")
PARTS |= dict.fromkeys(("validation", "valid", "val"), "validation")
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
NOT_THERE = "names a file that is not in SOURCE"
SHOWN = 3  # faulty rows that a refusal lists before it only counts


@dataclass(frozen=True)
class Row:
    """What the labels say about one file; '' or nothing where they say nothing."""

    label: str = ""
    patient: str = ""
    split: str = ""
    view: str = ""
    disease: dict[str, str] = field(default_factory=dict)  # by column, those of DISEASE that say something
    masks: dict[str, Path] = field(default_factory=dict)  # by what they show: lungs, opacities


@dataclass(frozen=True)
class Layout:
    """Where the columns that `read` knows are to be found, and which classes are label 1 and 0."""

    columns: dict[str, str] = field(default_factory=dict)  # ours -> theirs; others keep their names
    positive: tuple[str, ...] = ()  # classes of label 1; none: the labels are 0 and 1 already
    negative: tuple[str, ...] = ()  # classes of label 0; none: all that are not positive
    between: str = ""  # what stands between the classes of one image
    published: bool = False  # files are named without their folders, and rows without a file are let pass
    folders: bool = False  # the class is the name of the folder: without a CSV, which only a published set may have
    views: tuple[str, ...] = ()  # the only projections that are chest radiographs; none: all
    given_split: bool = False  # each image has its part of the split, in a column or by a folder above its class


NIH = {"file": "Image Index", "label": "Finding Labels", "patient_id": "Patient ID", "view": "View Position"}
PADCHEST = {"file": "ImageID", "label": "Labels", "patient_id": "PatientID", "view": "Projection"}
# Akhter et al., Harvard Dataverse 2025, doi:10.7910/DVN/QH199J
SILICOSIS, OTHERS = ("silicosis", "silicotuberculosis", "stb"), ("healthy", "normal", "tuberculosis", "tb")
LAYOUTS = {  # data/README.md tells where each was read up
    "classes": Layout(folders=True),  # images/<class>/x.jpg, or train/<class>/x.jpg and test/<class>/x.jpg
    "nih": Layout(NIH, between="|", published=True),  # ChestX-ray14 (Wang et al., CVPR 2017)
    # PadChest (Bustos et al., Medical Image Analysis 2020): lists as Python prints them; L is a lateral view
    "padchest": Layout(PADCHEST, between=",", published=True, views=("PA", "AP", "AP_horizontal", "L")),
    "silicodata": Layout(positive=SILICOSIS, negative=OTHERS, published=True, folders=True),
}


def layout(name: str = "", columns: str = "", positive: str = "", negative: str = "") -> Layout:
    """The layout of that name with these changes; texts as on the command line.

    `columns` is "file=Path,label=Dx", the others are "A,B". ValueError: a wrong name, or classes that are missing.
    """
    refuse(name and name not in LAYOUTS, f"there is no layout {name!r}; the layouts are {', '.join(LAYOUTS)}")
    pairs = [[part.strip() for part in pair.partition("=")[::2]] for pair in _listed(columns)]
    refuse(not all(map(all, pairs)), "--columns needs pairs such as file=Path,label=Dx,patient_id=Subject")
    chosen = LAYOUTS.get(name, Layout())
    if positive or negative:
        chosen = replace(chosen, positive=_listed(positive.lower()), negative=_listed(negative.lower()))
    if not chosen.positive and (chosen.published or chosen.negative):
        raise ValueError(f"which classes are label 1? layout {name or 'of your CSV'} needs --positive CLASS[,CLASS]")
    return replace(chosen, columns=chosen.columns | dict(pairs))


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in _composed(text).split(",") if part.strip())


def _composed(text: str) -> str:
    """`text` in one of the forms that Unicode has for it: macOS names files in another one than people type."""
    return unicodedata.normalize("NFC", text)


def read(
    source: Path, labels: str | Path | None = None, given_split: bool = False, layout: Layout | None = None
) -> tuple[list[str], dict[str, Row] | None]:
    """Every input under `source`, sorted as bytes, and a Row for those that have one, by their paths within `source`.

    An input is whatever is not a folder, also links, which are not followed, so that each is accounted for; but not the
    labels CSV, the masks that it names, and a `phantom.json`. `labels` is the CSV (data/README.md tells its columns, of
    which split is read only for `given_split`), or else labels.csv in `source`, or else there are no rows (None),
    unless the `layout` is one of folders. One ValueError names the first faulty rows by number, never by content.
    """
    source = source.resolve()  # as the CSV and the masks are, to be told from the films
    files, layout = _walked(source), replace(layout or Layout(), given_split=given_split)
    if layout.folders and not labels:
        return files, _from_folders(files, layout)
    if layout.folders and not layout.published:
        raise ValueError("with classes as folders there is no labels CSV: leave --labels or --layout out")
    path = Path(labels) if labels else source / "labels.csv"
    if not labels and not path.is_file():
        refuse(layout != Layout(given_split=given_split), "this layout needs its label file: --labels CSV")
        refuse(given_split, "split=given needs a labels CSV with a column split")
        return files, None
    path = path.parent.resolve() / path.name
    files = [file for file in files if source / file != path]
    rows = _rows(_table(path), layout, path.parent, source, files)
    masks = {mask for row in rows.values() for mask in row.masks.values()}
    return [file for file in files if source / file not in masks], rows


def _walked(source: Path) -> list[str]:
    if not source.is_dir():
        raise ValueError(f"there is no folder {str(source)!r}: SOURCE must be a folder of DICOM, JPG or PNG files")
    found = []
    for folder, inner, names in os.walk(source, onerror=_refuse_folder):
        here = Path(folder)
        links = [name for name in inner if (here / name).is_symlink()]
        found += [str((here / name).relative_to(source)) for name in names + links if here / name != source / RECORD]
    return sorted(found, key=os.fsencode)


def _refuse_folder(error: OSError) -> None:
    raise ValueError(f"a folder within SOURCE cannot be opened ({type(error).__name__}): allow reading it") from None


def _from_folders(files: list[str], layout: Layout) -> dict[str, Row]:
    """A Row for each file whose folder is named like a class; the nearest folder above may name the part."""
    rows = {}
    for file in files:
        *above, folder = ("", *PurePosixPath(file).parts[:-1])
        label = _label([folder, folder.removeprefix("folder_")], layout)
        part = next(filter(None, map(_part, reversed(above))), "") if layout.given_split else ""
        if label and layout.given_split and not part:
            raise ValueError("split=given needs a folder such as train, test_images or val above each class")
        if label:
            rows[file] = Row(label, split=part)
    _refuse_one_sided(rows.values(), layout.given_split, "no file lies in a folder")
    return rows


def _part(folder: str) -> str:
    """The part that a folder such as train, test_images or ValidationSet names; '' for none, or for two."""
    words = re.findall("[A-Z]?[a-z]+|[A-Z]+", folder)
    parts = {PARTS[word] for word in (word.lower().removesuffix("set") for word in words) if word in PARTS}
    return parts.pop() if len(parts) == 1 else ""


def _table(path: Path) -> list[list[str]]:
    """Cells of the CSV, the header first; empty rows are kept, so that numbers are those of a spreadsheet.

    Rows are as long as the header, or longer if that is a fault: spreadsheets add and drop empty cells at the end.
    """
    try:
        text = _composed(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ValueError(f"the labels CSV {path.name!r} cannot be opened ({type(error).__name__})") from None
    except UnicodeDecodeError as error:
        row = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"the labels CSV is not UTF-8 text in row {row}: save it as 'CSV UTF-8'") from None
    table, limit = [], csv.field_size_limit(len(text) + 1)  # a cell may be as long as the file
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), strict=True):
            table.append([cell.strip() for cell in cells])
    except csv.Error:
        remedy = 'a " that begins a cell must end it, and one within it is written ""'
        raise ValueError(f"the labels CSV has a broken quotation in row {len(table) + 1}: {remedy}") from None
    finally:
        csv.field_size_limit(limit)
    wide = max((place for place, name in enumerate(table[0], start=1) if name), default=0) if table else 0
    return [cells if any(cells[wide:]) else cells[:wide] + [""] * (wide - len(cells)) for cells in table] or [[]]


def _label(classes: Iterable[str], layout: Layout) -> str:
    """1 or 0 for an image of these classes; '' if it is of neither. A positive class outweighs a negative one."""
    names = {_composed(name).lower() for name in classes} - {""}
    if not layout.positive:
        return next(iter(names & {"0", "1"}), "")
    return "1" if names & set(layout.positive) else "0" if names & (set(layout.negative) or names) else ""


def _rows(table: list[list[str]], layout: Layout, base: Path, source: Path, files: list[str]) -> dict[str, Row]:
    header, names, told, faults, missing = _header(table[0], layout), {}, {}, [], []
    for file in files:
        names.setdefault(_composed(PurePosixPath(file).name if layout.published else file), []).append(file)
    for number, cells in enumerate(table[1:], start=2):
        try:
            refuse(len(cells) != len(header), f"has {len(cells)} cells, the header has {len(header)}")
            value = dict(zip(header, cells, strict=True))
            if any(cells) and (found := _row(value, layout, base, source, names)):
                same = told.setdefault(found[0], [])
                same.append((number, found[1]))
                twice = "names the file of" if same[0][1].label == same[-1][1].label else "contradicts"
                refuse(len(same) > 1, f"{twice} row {same[0][0]}: one row for each file")
        except ValueError as fault:
            faults.append(f"row {number} {fault}")
            missing += [value["file"]] if str(fault) == NOT_THERE else []
    hints = _hint(missing[0], files) if missing else []
    if several := sum(len(same) > 1 for same in told.values()):
        ones = sum(any(row.label == "1" for _, row in same) for same in told.values())
        hints += [f"{several} files have several rows: as one each, 1 if any is 1, {ones} of {len(told)} are label 1"]
    more = [f"and {len(faults) - SHOWN} more rows"] * (len(faults) > SHOWN)
    refuse(faults, "the labels CSV: " + "; ".join(faults[:SHOWN] + more + hints))
    rows = {file: same[0][1] for file, same in told.items()}
    _refuse_one_sided(rows.values(), layout.given_split, "the labels CSV has no row")
    return rows


def _header(names: list[str], layout: Layout) -> list[str]:
    """The columns by our names; one that is called as ours is but stands for something else becomes 'other ...'."""
    if any(name and number > 1 for name, number in Counter(names).items()):
        raise ValueError("the labels CSV has two columns of one name in row 1")
    ours = {theirs: name for name, theirs in layout.columns.items()}
    if missing := sorted(set(ours) - set(names)):
        raise ValueError(f"the labels CSV has no column {', '.join(missing)} in row 1: see --layout and --columns")
    header = [ours.get(name, f"other {name}" if name in layout.columns else name) for name in names]
    needed = ["file", "label"] + ["split"] * layout.given_split
    if not set(needed) <= set(header):
        raise ValueError(f"the labels CSV needs the columns {', '.join(needed)}, separated by commas, in row 1")
    return header


def _hint(name: str, files: list[str]) -> list[str]:
    """What may be wrong with a name that no file bears."""
    for place in (PurePosixPath(_composed(file).lower()) for file in files):
        nearly = {str(place.stem): "folder and ending", place.name: "folder"}
        nearly |= {str(place.with_suffix("")): "ending", str(place): "capitals"}
        if name.lower() in nearly:
            return [f"but for its {nearly[name.lower()]} a file is named so: write its path as it is in SOURCE"]
    if "\\" in name:
        return ["between folders write / instead of \\"]
    garbled = sum(not file.isascii() and any("\udc80" <= letter <= "\udcff" for letter in file) for file in files)
    return [f"the names of {garbled} files are not UTF-8: rename them, as by convmv -f GBK -t UTF-8"] if garbled else []


def _row(value: dict[str, str], layout: Layout, base: Path, source: Path, names: dict) -> tuple[str, Row] | None:
    """One row, checked, or None if the layout lets it pass; each ValueError reads on from 'row 7 ...'."""
    label, view = value["label"], value.get("view", "")
    if layout.positive and label:
        classes = label.strip("[] ").split(layout.between) if layout.between else [label]
        label = _label((part.strip().strip("'\" ") for part in classes), layout)
        if not label:
            return None
    if layout.published:
        found = names.get(PurePosixPath(value["file"]).name, [])
        if not found or not label or (layout.views and view not in layout.views):
            return None
    else:
        places = [folder / _downwards(value["file"]) for folder in (base, source)]
        inside = [_composed(str(place.relative_to(source))) for place in places if place.is_relative_to(source)]
        found = next((names[name] for name in inside if name in names), [])
    refuse(not found, NOT_THERE)
    refuse(len(found) > 1, f"names {len(found)} files, of one name or equal but for its form of Unicode: rename one")
    refuse(label not in ("0", "1"), "has no label 0 or 1")
    refuse(value.get("patient_id") == "", "has no patient_id: fill in all of them, or leave the column out")
    part, view = value.get("split", "") * layout.given_split, view.upper().removesuffix("_HORIZONTAL")
    disease = {column: value[column] for column in DISEASE if value.get(column)}
    for column, text in disease.items():
        pattern, right = DISEASE[column]
        refuse(not re.fullmatch(pattern, text, re.ASCII), f"has a {column} that is not {right}")
    refuse(layout.given_split and part not in PARTS.values(), "has a split that is not train, test or validation")
    masks = {shown: _mask(value[column], base, source) for shown, column in MASKS.items() if value.get(column)}
    return found[0], Row(label, value.get("patient_id", ""), part, view, disease, masks)


def _downwards(text: str) -> str:
    """`text` if it is a path that leads down from wherever it starts, else ValueError."""
    if not text or "\0" in text or text[0] in "/\\" or ".." in text.replace("\\", "/").split("/"):
        raise ValueError("has no path within the source folder: no '..' and not absolute")
    return text


def _mask(text: str, base: Path, source: Path) -> Path:
    for folder, form in product((base, source), ("NFC", "NFD")):
        path = folder / unicodedata.normalize(form, _downwards(text))
        if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            return path
    raise ValueError("names a mask that is not there")


def _refuse_one_sided(rows: Iterable[Row], given_split: bool, nothing: str) -> None:
    there = {(row.label, row.split) for row in rows}
    for label, part in product(("0", "1"), ("train", "test") if given_split else ("",)):
        where = f" and split {part}" * given_split
        refuse((label, part) not in there, f"{nothing} with label {label}{where}: both classes are needed")
