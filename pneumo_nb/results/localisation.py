"""How well maps of a radiograph separate lung from background, and opacity from lung: numbers against masks.

A map is enlarged to the radiograph that the network saw, and compared there. The other way round small opacities would
vanish from the masks, and layers of different size could not be compared, nor either with the radiograph itself.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pandas as pd

from pneumo_nb.results.comparisons import bootstrap

SCORES = ("lung_auc", "lung_dice", "opacity_auc", "energy", "pointing")


def enlarged(maps: np.ndarray, size: int) -> np.ndarray:
    """(maps, height, width) -> (maps, size, size), linearly."""
    return np.stack([cv2.resize(each, (size, size), interpolation=cv2.INTER_LINEAR) for each in maps])


def separation(values: np.ndarray, inside: np.ndarray) -> dict[str, float]:
    """How well pixel values (pixels,) tell those inside a mask, a bool (pixels,), from the others.

    `auc` is the area under the ROC curve of the value, `dice` the best Dice coefficient over all thresholds when bright
    is called inside, `dice_inverted` when dark is; `auc_inverted` is 1 - auc. NaN where all or none are inside.
    """
    order = np.argsort(-values)
    last = np.append(np.diff(values[order]) != 0, True)  # equal values are called together
    called, found = np.append(0, np.flatnonzero(last) + 1), np.append(0, np.cumsum(inside[order])[last])
    pixels, wanted = len(values), int(found[-1])
    if wanted in (0, pixels):
        return dict.fromkeys(("auc", "auc_inverted", "dice", "dice_inverted"), np.nan)
    auc = np.trapezoid(found, called - found) / wanted / (pixels - wanted)
    bright, dark = 2 * found / (called + wanted), 2 * (wanted - found) / (pixels - called + wanted)
    return {"auc": auc, "auc_inverted": 1 - auc, "dice": bright.max(), "dice_inverted": dark.max()}


def scores(maps: np.ndarray, masks: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """One row for each map of one radiograph, (maps, height, width), against masks of the radiograph's size.

    `masks` may hold `lungs` and `opacities`, bools of (side, side). Channels count from 1, as in the paper. lung_auc
    and lung_dice tell lung from background (`separation`). Within the lungs, opacity_auc tells opacity from the rest;
    energy is the share of the map, counted from its lowest value there, that falls on opacities, over their share of
    the area (1 is chance); pointing is 1 if the highest pixel is opacity, else 0, minus that share (0 is chance). The
    last two are after Wang et al. 2020 (Score-CAM) and Zhang et al. 2018 (pointing game). Each score has a twin,
    `_inverted`, in which dark takes the place of bright. NaN without opacity.
    """
    size = len(next(iter(masks.values())))
    lungs, opacities = masks.get("lungs", np.ones((size, size), bool)), masks.get("opacities")

    def of_one(each: np.ndarray) -> dict[str, float]:
        found = separation(each.ravel(), lungs.ravel()) if "lungs" in masks else {}
        row = {f"lung_{name}": value for name, value in found.items()}
        if opacities is not None and lungs.any():
            row |= _opacity_scores(each[lungs], opacities[lungs])
        return row

    with ThreadPoolExecutor() as pool:  # sorting the pixels takes the time, and NumPy lets threads sort side by side
        frame = pd.DataFrame(pool.map(of_one, enlarged(maps, size)))
    return frame.set_axis(frame.index + 1).rename_axis("channel").reset_index()


def _opacity_scores(values: np.ndarray, inside: np.ndarray) -> dict[str, float]:
    row = {f"opacity_{name}": value for name, value in separation(values, inside).items() if name.startswith("auc")}
    share = inside.mean() if inside.any() else np.nan
    for direction, strength in (("", values), ("_inverted", -values)):
        strength = strength - strength.min()
        total = strength.sum()
        row[f"energy{direction}"] = (strength[inside].sum() / total if total else share) / share  # a flat map is chance
        row[f"pointing{direction}"] = inside[strength == strength.max()].mean() - share
    return row


def scored(maps: Iterable[np.ndarray], radiographs: pd.DataFrame, masks: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """`scores` of many radiographs, with image_id and patient_id: one entry of each argument for each radiograph.

    `radiographs` are rows of the manifest, `masks` of (radiographs, side, side). A ValueError if none has an opacity.
    """
    if "opacities" in masks and not masks["opacities"].any():
        raise ValueError(f"none of the {len(radiographs)} radiographs has an opacity in its mask: nothing to be found")
    frames = []
    for place, (of_one, row) in enumerate(zip(maps, radiographs.itertuples(), strict=True)):
        frame = scores(of_one, {name: mask[place] for name, mask in masks.items()})
        frames.append(frame.assign(image_id=row.image_id, patient_id=row.patient_id))
    return pd.concat(frames, ignore_index=True)


def directed(found: pd.DataFrame, chosen_on: pd.DataFrame) -> pd.DataFrame:
    """`scored` radiographs with one direction for each map and target, chosen on others, so that chance cannot choose.

    Bright means lung, or opacity (see `lung_is`, `opacity_is`), where the mean AUC of `chosen_on` is at least a half.
    """
    kept, before = found[["channel", "image_id", "patient_id"]].copy(), chosen_on.groupby("channel")
    for target, names in (("lung", SCORES[:2]), ("opacity", SCORES[2:])):
        if names[0] in found:
            bright = found["channel"].map(before[names[0]].mean() >= 0.5)
            kept[f"{target}_is"] = np.where(bright, "bright", "dark")
            for name in names:
                kept[name] = found[name].where(bright, found[f"{name}_inverted"])
    return kept


def mean(found: pd.DataFrame, name: str, draws: int = 2000) -> dict[str, float]:
    """The mean of a column where it is defined, with its 95 % bootstrap interval over patients: value, low, high."""
    defined = found[found[name].notna()]
    if defined.empty:
        return dict.fromkeys(("value", "low", "high"), np.nan)
    low, high = bootstrap(np.mean, defined["patient_id"], defined[name], draws=draws)
    return {"value": float(defined[name].mean()), "low": low, "high": high}
