"""The four-to-one split into training set and testing set (Section 2.1), and what leaks across it."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

REMEDY = "a column patient_id in the labels CSV tells people apart, --set split=paper splits by image"


def split(labels: Sequence[str], groups: Sequence[Hashable], settings) -> list[str]:
    """'train', 'test' or 'validation' for each image, from its label ('0' or '1') and the group it must stay with.

    A group is a patient, or for split `paper` a picture, so that only exact duplicates stay together. `settings` are
    PrepareSettings, or have their test_fraction, validation_fraction, split_seed and split. The testing set gets
    floor(test_fraction x n) of the n images of each class (112 and 28 of the paper's 564 and 142), or as near to that
    as whole groups allow; the validation part is drawn from the rest likewise. ValueError: a class is too small.
    """
    chance = np.random.default_rng(settings.split_seed)
    parts = np.full(len(labels), "train", dtype=object)
    for part, fraction in (("test", settings.test_fraction), ("validation", settings.validation_fraction)):
        rest = np.flatnonzero(parts == "train")
        drawn = _draw([labels[i] for i in rest], [groups[i] for i in rest], fraction, chance)
        parts[rest[drawn]] = part
    there = set(zip(parts, labels, strict=True))
    for part in ("train", "test", "validation")[: 3 if settings.validation_fraction else 2]:
        for label in sorted(set(labels)):
            if (part, label) not in there:
                held = Counter(group for group, a in zip(groups, labels, strict=True) if a == label)
                raise ValueError(_too_few(label, part, held, settings))
    return parts.tolist()


def _too_few(label: str, part: str, held: Counter, settings) -> str:
    """Why no image of a class came into a part, and what would help; `held` counts the images of each group."""
    images, one = held.total(), "picture" if settings.split == "paper" else "patient"
    told = f"label {label} has {images} images of {len(held)} {one}{'s' * (len(held) > 1)}: "
    told += f"too few for one in the {part} part; "
    fraction = {"test": settings.test_fraction, "validation": settings.validation_fraction}.get(part, 1)
    if math.floor(fraction * images + 1e-9) == 0:
        return told + f"add some, or raise {part}_fraction = {fraction:g}"
    if len(held) == images or one == "picture":
        return told + "add some"
    return told + f"{max(held.values())} count as one patient's, by a shared PatientID or as copies: {REMEDY}"


def _draw(labels: list[str], groups: list[Hashable], fraction: float, chance: np.random.Generator) -> list[int]:
    """Positions of the groups drawn: in random order, each that still fits into the room left for its classes."""
    members: dict[Hashable, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(group, []).append(position)
    whole = list(members.values())
    room = +Counter({label: math.floor(fraction * n + 1e-9) for label, n in Counter(labels).items()})
    wanted, drawn = set(room), []
    for index in chance.permutation(len(whole)):
        count = Counter(labels[i] for i in whole[index])
        if count <= room:
            drawn += whole[index]
            room -= count
    for label in sorted(wanted - {labels[i] for i in drawn}):  # every group is larger than the room: take the smallest
        holders = [group for group in whole if any(labels[i] == label for i in group)]
        if len(holders) > 1:
            drawn += [i for i in min(holders, key=len) if i not in drawn]
    return drawn


def leak_groups(patients: Sequence[str], pictures: Sequence[str]) -> list[int]:
    """One number for all images that must stay together: those of one patient, and those of one picture."""
    (_, patient), (_, picture) = (np.unique(names, return_inverse=True) for names in (patients, pictures))
    pairs = coo_array((np.ones(len(patient)), (patient, picture + patient.max() + 1)), shape=(2 * len(patient),) * 2)
    return connected_components(pairs, directed=False)[1][patient].tolist()


def overlap(manifest, column: str = "patient_id") -> int:
    """How many patients of the testing set have images in the training set or the validation part too.

    `manifest` is a DataFrame, or a dict of columns, with split and `column`: sha256 counts pictures instead.
    """
    pairs = set(zip(manifest[column], manifest["split"], strict=True))
    tested = {name for name, part in pairs if part == "test"}
    return len(tested & {name for name, part in pairs if part in ("train", "validation")})
