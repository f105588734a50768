"""Radiographs as they come -> a prepared dataset without identifiers (Section 2.1). No torch, no matplotlib.

In: a folder of DICOM, JPG or PNG files and a labels CSV (or a layout of labels). Out: `data/prepared/<name>/` with
images, manifest.csv, rejects.csv and dataset.json, whole or not at all.

For others: the names below, as `prepare.prepare`, `prepare.read_dataset`, ...; they are loaded when they are asked for.
"""

from importlib import import_module
from typing import Any

LENT = dict.fromkeys(("prepare", "check", "phantom"), "prepare.folder") | {"layout": "prepare.sources"}
LENT |= dict.fromkeys(("equalise", "refine"), "prepare.convert") | dict.fromkeys(("overlap", "split"), "prepare.splits")
LENT |= {"summary": "prepare.manifest", "read_dataset": "paths"}


def __getattr__(name: str) -> Any:
    if name not in LENT:
        raise AttributeError(f"pneumo_nb.prepare has no {name!r}; it has {', '.join(LENT)}")
    return getattr(import_module(f"pneumo_nb.{LENT[name]}"), name)
