"""What every later stage reads of a prepared dataset: its manifest, its counts, and how its masks are to be taken."""

import json
from typing import Any

from pneumo_nb import paths

# Share of a pixel that must be covered for it to belong to the mask: half for the lungs, whose area then stays what it
# was; a quarter for opacities, of which the smallest are hardly larger than a prepared pixel and would vanish.
COVERED = {"lungs": 0.5, "opacities": 0.25}
TEXTS = ("label", "stage", "profusion", "letter", "view", "photometric")  # columns; '' for nothing
NUMBERS = ("large", "diameter_mm", "largest_mm", "spacing_mm")  # NaN for nothing


def read_dataset(name: str) -> tuple[Any, dict]:
    """Manifest (a DataFrame, a row for each image) and dataset.json of a prepared dataset.

    ValueError: there is none of that name; it lists those there are.
    """
    import pandas as pd

    folder = paths.finished(name)
    manifest = pd.read_csv(folder / "manifest.csv", keep_default_na=False, dtype=dict.fromkeys(TEXTS, str))
    for column in manifest.columns.intersection(NUMBERS):
        manifest[column] = pd.to_numeric(manifest[column], errors="coerce")
    return manifest, json.loads((folder / "dataset.json").read_text())
