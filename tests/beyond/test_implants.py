import csv
import shutil
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import papermill
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pneumo_nb import metrics, paths, prepare, settings
from pneumo_nb.beyond import implants, texture
from pneumo_nb.phantom import beam, disease, radiograph
from pneumo_nb.prepare.convert import equalise
from pneumo_nb.results import comparisons

SMALL = {"width": 694, "height": 719}  # pixels of 0.6 mm
TINY = {"width": 256, "height": 265}
EVERYWHERE = (2,) * 6  # profusion


@pytest.mark.parametrize("index", range(4))
def test_without_more_attenuation_it_is_the_healthy_phantom(index):
    _, _, detected = implants.healthy(index, 5, **TINY)
    whole = radiograph.render(index, False, *TINY.values(), seed=5)
    expected = beam.WHITE - whole.pixels if whole.photometric == "MONOCHROME1" else whole.pixels
    assert np.array_equal(detected(0), expected)


def test_the_same_seed_gives_the_same_bytes():
    first, again, other = (implants.trial(1, (0, 5), 2, seed, **TINY)[0] for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    film = implants.shown(first)
    lungs = texture.lung_fields(film / 255)
    made = [implants.implanted(film, 1.6, "r", 1, lungs, seed).tobytes() for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]


def test_lungs_that_do_not_hold_the_places_asked_for_are_refused():
    with pytest.raises(ValueError, match=r"800 places 11 mm apart: the lungs hold \d+"):
        implants.trial(0, (5,), 200, **TINY)


@pytest.fixture(scope="module")
def found():
    """AUC with its interval by diameter and by factor that the side is shrunk by."""
    sides, diameters, seen = (1, 3, 8), (0, 3, 6), {}
    for index in range(8):
        values, spacing, places = implants.trial(index, diameters, 6, **SMALL)
        grey, size = implants.shown(values), tuple(SMALL.values())
        for side in sides:
            image = cv2.resize(grey, [one // side for one in size], interpolation=cv2.INTER_AREA)
            for mm in diameters:
                both = (implants.responses(image, places[each], spacing, *size, mm) for each in (mm, None))
                seen.setdefault((mm, side), []).append([*both])
    return {
        key: implants.observer(*(np.array(each) for each in zip(*pairs, strict=True))) for key, pairs in seen.items()
    }


def test_what_is_not_there_is_not_found(found):
    assert all(low < 0.5 < high for (mm, _), (_, low, high) in found.items() if mm == 0)


def test_auc_does_not_rise_as_pixels_grow(found):
    for mm in (3, 6):
        aucs = [auc for (one, _), (auc, _, _) in found.items() if one == mm]
        assert all(coarser <= finer + 0.02 for finer, coarser in pairwise(aucs))
        assert aucs[0] > 0.9 and aucs[0] - aucs[-1] > 0.02
    assert found[3, 8][0] < found[6, 8][0] - 0.1


def test_the_observer_has_the_auc_of_a_known_distance():
    rng = np.random.default_rng(0)
    absent, present = rng.standard_normal((2, 40, 50, 3))
    present[..., 1] += 1.5
    auc, low, high = implants.observer(present, absent)
    assert auc == pytest.approx(0.8556, abs=0.02) and low < auc < high  # Phi(1.5 / sqrt 2)
    assert implants.observer(present * 7, absent * 7)[0] == pytest.approx(auc)


def test_the_local_slope_gives_opacities_the_contrast_that_their_attenuation_gives():
    ratios = []
    for index in range(4):
        picture, chest, detected = implants.healthy(index, 7, **SMALL)
        more, rng = np.zeros((picture.height, picture.width), np.float32), np.random.default_rng(index)
        disease.opacities(picture, more, chest, disease.Disease((1,) * 6, "r"), rng)
        before, inside = detected(0), more > 0.05
        rank = implants.ranks(before)
        rise = rank[detected(more)] - rank[before]
        ratios.append(
            (np.interp(rank[before], implants.RANKS, implants.slopes()) * more)[inside].mean() / rise[inside].mean()
        )
    assert min(ratios) > 0.8 and max(ratios) < 1.25


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("equalised", [True, False])
def test_implants_change_the_lungs_alone_and_make_them_brighter(bits, equalised):
    _, _, detected = implants.healthy(2, 0, **SMALL)
    film = implants.shown(detected(0), bits, equalised)
    lungs = texture.lung_fields(equalise(film) / np.iinfo(film.dtype).max)
    ill = implants.implanted(film, 0.6, "q", 2, lungs, 0)
    assert ill.dtype == film.dtype and (ill >= film).all() and ill[lungs].mean() > film[lungs].mean()
    near = cv2.dilate(lungs.astype(np.uint8), np.ones((9, 9))) > 0
    assert (ill == film)[~near].all() and 0.02 < (ill > film)[lungs].mean() < 0.6


def features(image, lungs):
    """A simple texture: the greys within the lungs, how they spread, and what two differences leave of them."""
    smooth = image.astype(np.float32)
    fine, coarse = (smooth - cv2.GaussianBlur(smooth, (0, 0), sigma) for sigma in (1, 4))
    values = smooth[lungs], fine[lungs], coarse[lungs]
    return [one for each in values for one in (each.mean(), each.std(), *np.quantile(each, (0.1, 0.9)))]


def told_apart(own, others):
    """AUC of a logistic regression over texture on phantoms that it has not seen, and its interval."""
    labels, seen = np.tile([0, 1], len(own)), np.arange(2 * len(own)) < len(own)
    texture = np.stack([own, others], axis=1).reshape(len(labels), -1)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(texture[seen], labels[seen])
    scores, truth = model.predict_proba(texture[~seen])[:, 1], labels[~seen]
    return metrics.auc(truth, scores), comparisons.bootstrap(
        metrics.auc, np.arange(len(truth)), truth, scores, draws=500
    )


def test_texture_cannot_tell_implants_from_the_phantoms_own_opacities():
    kinds = {"own": [], "implanted": [], "by slope": [], "healthy": []}
    for index in range(80):
        picture, chest, detected = implants.healthy(index, 3, **TINY)
        depth = np.maximum(picture.enlarged(chest.lung.sum(0), cv2.INTER_LINEAR), 0)
        lungs, more, rng = (
            depth > disease.FIELD_LUNG_MM,
            np.zeros(depth.shape, np.float32),
            np.random.default_rng(index),
        )
        kind = list(kinds)[index % 4]
        if kind == "own":
            disease.opacities(picture, more, chest, disease.Disease(EVERYWHERE, "r"), rng)
        if kind == "implanted":
            implants.sow(picture, more, "r", 2, depth * lungs, rng)
        grey = implants.shown(detected(more), 16, equalised=False)
        if kind == "by slope":
            grey = implants.implanted(grey, picture.spacing, "r", 2, depth * lungs, index)
        kinds[kind].append(features(equalise(grey) / 257, lungs))
    for kind in ("implanted", "by slope"):
        _, (low, high) = told_apart(kinds["own"], kinds[kind])
        assert low < 0.5 < high
    assert told_apart(kinds["own"], kinds["healthy"])[0] > 0.9


@pytest.mark.slow
def test_the_notebook_puts_implants_into_real_normal_films_and_says_that_no_run_can_be_asked(shared, home):
    rows = list(csv.DictReader((shared / "data" / "nih-cxr" / "labels.csv").open()))
    kept = [row for label in "01" for row in [row for row in rows if row["label"] == label][:20]]
    source = home / "source"
    source.mkdir()
    for row in kept:
        shutil.copy(shared / "data" / "nih-cxr" / row["file"], source / Path(row["file"]).name)
    lines = [f"{Path(row['file']).name},{row['label']},{row['patient_id']}" for row in kept]
    (home / "labels.csv").write_text("\n".join(["file,label,patient_id", *lines]))
    prepare.prepare(source, home / "labels.csv", "films", settings.PrepareSettings.of(downsize=2), progress=False)
    few = {"DATASET": "films", "RADIOGRAPHS": 6, "PLACES": 2, "DIAMETERS": [0.0, 5.0], "FILMS": 3}
    notebook = paths.notebooks() / "09_detectability.ipynb"
    done = papermill.execute_notebook(str(notebook), str(home / "out.ipynb"), few, progress_bar=False)
    told = "".join(output.get("text", "") for cell in done.cells for output in cell.get("outputs", []))
    assert "3 radiographs; guessed: spacing of 3, lungs of 3" in told
    assert "runs asked: 0; train some with notebooks 02-06 first" in told
