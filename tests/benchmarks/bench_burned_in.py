"""Recall and false alarms of the search for burned-in text; run from the project's folder:

    python tests/benchmarks/bench_burned_in.py

Text is rendered onto phantoms and, where they lie beside the checkout, onto real radiographs. A text counts as found if
a box covers a third of it. Contrast is the distance of its grey level from what it is written on.
"""

import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import typed

from pneumo_nb.phantom import files as phantom_files
from pneumo_nb.prepare import burned_in, dicom

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
HEIGHTS = (0.01, 0.015, 0.02, 0.03, 0.05)
# What a person saw in the radiographs of ../shared/data/nih-cxr, by their place in the sorted list: typed words (AP,
# PORTABLE, SUPINE), and, of those that the search points at, side markers that bear more letters than that of the side.
TYPED = {13, 16, 17, 26, 34, 35, 40, 43, 45, 58, 63, 68, 73, 77, 95, 100, 101, 102, 103, 104, 105, 106, 109, 122, 124}
TYPED |= {125, 126, 156, 159, 162, 183, 198}
LETTERED = {20, 33, 64, 71, 128, 173}


def phantoms(count: int, width: int, height: int) -> list[np.ndarray]:
    """Clean phantoms as they are read from their DICOM files."""
    with tempfile.TemporaryDirectory() as folder:
        phantom_files.write(Path(folder) / "phantom", count, count // 3, width, height, seed=7)
        return [dicom.read(path)[0] for path in sorted(Path(folder).rglob("*.dcm"))]


def rendered(pictures: list[np.ndarray], each: int) -> pd.DataFrame:
    """Texts of every height written onto each picture, and whether they were found."""
    chance, rows = np.random.default_rng(0), []
    for picture in pictures:
        for height in HEIGHTS:
            for _ in range(each):
                what = typed.drawn(chance, height)
                written, box, contrast = typed.write(picture, what)
                hit = typed.found(burned_in.find(written), box)
                rows.append((height, contrast, what.shade, what.font, what.text, box[3] - box[1], hit))
    return pd.DataFrame(rows, columns=["height", "contrast", "shade", "font", "text", "pixels", "found"])


def told(name: str, table: pd.DataFrame) -> None:
    table["level"] = pd.cut(table["contrast"], [-1, 40, 80, 255], labels=["below 40", "40 to 80", "above 80"])
    print(f"\n{name}: {table['found'].sum()} of {len(table)} texts found ({table['found'].mean():.1%})")
    counted = table.groupby(["height", "level"], observed=True)["found"].agg(["sum", "count"])
    shown = (counted["sum"].astype(str) + " of " + counted["count"].astype(str)).unstack().fillna("-")
    shown.index = [f"{height:.1%} of the height" for height in shown.index]
    print(shown.to_string())
    visible = table[table["contrast"] > 40]
    for column in ("shade", "font", "text"):
        print(visible.groupby(column)["found"].mean().map("{:.1%}".format).to_string(header=False))


def main() -> None:
    for width, height, count in ((1024, 1060, 30), (512, 530, 30), (2776, 2876, 6)):
        clean = phantoms(count, width, height)
        start = time.process_time()
        alarms = sum(bool(burned_in.find(picture)) for picture in clean)
        spent = (time.process_time() - start) / len(clean)
        print(f"\nphantoms of {width} x {height}: {alarms} of {count} clean ones flagged; {1000 * spent:.0f} ms each")
        told(f"phantoms of {width} x {height}", rendered(clean, 4))
    if not SHARED.is_dir():
        print("\nno real radiographs beside this checkout")
        return
    files = sorted((SHARED / "nih-cxr" / "images").glob("*.jpg"))
    pictures = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in files]
    flagged = {place for place, picture in enumerate(pictures) if burned_in.find(picture)}
    others = [place for place in range(len(pictures)) if place not in TYPED]
    print(f"\nNIH radiographs with typed words: {len(flagged & TYPED)} of {len(TYPED)} flagged")
    print(
        f"NIH radiographs without: {len(flagged - TYPED)} of {len(others)} flagged, {len(flagged & LETTERED)} of them"
    )
    print(f"for letters on a side marker, the others falsely: {sorted(flagged - TYPED - LETTERED)}")
    told("real radiographs without typed words", rendered([pictures[place] for place in others], 1))
    for path in sorted((SHARED / "dicom-real" / "files").glob("*.dcm")):
        try:
            boxes = burned_in.find(dicom.read(path)[0])
        except dicom.Rejected:
            continue
        print(f"{path.name}: {len(boxes)} places")


if __name__ == "__main__":
    main()
