"""One new radiograph, or a folder of them, through the road of a run's dataset: a probability and what it is worth.

Each file is read in a guarded process and refused as in preparing. Nothing of its header, name or path comes out: what
is printed or written are pixels, numbers and words from here; the files of a folder are told apart by their place.
"""

import base64
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from string import Template

import cv2
import numpy as np
import pandas as pd
import torch

from pneumo_nb import paths, prepare, processes
from pneumo_nb.beyond import decisions
from pneumo_nb.prepare import convert, images, sources
from pneumo_nb.results import interpret, overlays
from pneumo_nb.settings import PrepareSettings, refuse
from pneumo_nb.train import dataset, loop, runs

SHARE, CONFIDENCE = 0.9, 0.95  # of patients found, and of healthy people spared, by the two thresholds of the zone
ORDINARY = 0.99  # share of the training set that counts as ordinary
PICTURE, CHANNEL = 400, 120  # pixels a side on the page
NO_VALIDATION = "none: the run's dataset has no validation part with both classes (validation_fraction)"
NOTE = "For research only; not a medical device."
PAGE = Template(Path(__file__).with_name("reading.html").read_text(encoding="utf-8"))


class Reader:
    """A finished run and the dataset that it was trained on; a ValueError if either is not there or has changed."""

    def __init__(self, key: str):
        self.run = runs.load(key)
        self.net = self.run.network()
        name, of = self.run.record["dataset"]["name"], self.run.settings
        self.prepared_as = PrepareSettings.of(**prepare.read_dataset(name)[1]["settings"])
        data = dataset.load(name, of)
        self.run.check_fits(data)
        self.data = replace(data, images=torch.cat([data.images, data.images[:1]]))  # the last place: for a new film
        self.feed = dataset.Feed(self.data, torch.device("cpu"), of.channels, of.normalisation)
        self.training = np.stack([self.small(image[0]) for image in data.images[data.part("train")].numpy()])
        self.labels, probabilities = self.run.on("validation")
        self.validation = probabilities.astype(np.float32).astype(float)  # as the network gave them
        both = len(set(self.labels)) == 2
        self.calibrated = decisions.calibration("platt", self.labels, self.validation) if both else None
        try:  # two thresholds, or why there are none
            self.zone = decisions.zone(self.labels, self.validation, SHARE, CONFIDENCE)
        except ValueError as few:
            self.zone = str(few) if len(self.labels) else NO_VALIDATION

    def small(self, image: np.ndarray) -> np.ndarray:
        """A (size, size) radiograph as the measure of notebook 01 takes it."""
        return cv2.resize((image // (self.data.white // 255)).astype(np.uint8), (48, 48), interpolation=cv2.INTER_AREA)

    def films(self, folder: Path, files: list[str]) -> Iterator[dict]:
        """Each file's `position` from 1, with a `reason` or its `image` (size, size), as they end."""
        tasks = [convert.Task(file, f"film{place}", sources.Row(), place) for place, file in enumerate(files, start=1)]
        with tempfile.TemporaryDirectory() as aside:
            job = convert.Job(folder, Path(aside), self.prepared_as, key=b"")
            for task, told in convert.convert_all(job, tasks, min(len(tasks), processes.cores())):
                if "reason" not in told:
                    kept = Path(aside) / told["file"]
                    picture = images.decode(kept.read_bytes())
                    kept.unlink()
                    told |= {"image": dataset.square(picture, self.run.settings.image_size, self.run.settings.fit)}
                yield {"position": task.position} | told

    def read(self, film: dict) -> dict:
        """A row: the probability and, by the validation part, what it is worth; how unusual the film looks."""
        if "reason" in film:
            return {"position": film["position"], "reason": film["reason"]}
        self.data.images[-1, 0] = torch.from_numpy(film["image"].astype(self.data.images.numpy().dtype))
        probability = loop.predict(self.net, self.feed, np.array([len(self.data.labels)]))[0]
        row = {"position": film["position"], "reason": "", "probability": probability}
        row["called"] = int(probability >= self.run.record["threshold"])
        if self.calibrated:
            row["calibrated"] = self.calibrated([probability])[0]
            row["as_suspicious"] = (self.validation >= float(probability)).mean()
        if not isinstance(self.zone, str):
            row["zone"] = ("negative", "uncertain", "positive")[int((np.array(self.zone) <= float(probability)).sum())]
        *others, unusual = images.unusual(np.concatenate([self.training, self.small(film["image"])[None]]))
        ordinary = np.quantile(others, ORDINARY)
        row |= {"unusual": unusual, "ordinary_up_to": ordinary, "unlike": int(unusual > ordinary)}
        return row | {"suspected_text": film["suspected_text"]}

    def words(self, row: dict) -> dict[str, str]:
        """A row in words."""
        threshold, validation = self.run.record["threshold"], f"{len(self.labels)} validation films"
        told = {"probability of pneumoconiosis": str(row["probability"]), "calibrated": NO_VALIDATION}
        if self.calibrated:
            told["calibrated"] = f"{row['calibrated']:.3f}, by the {validation}"
            told["at least as suspicious"] = f"{row['as_suspicious']:.0%} of the {validation}"
        told["the run's threshold"] = f"{threshold:g}: the film is {'at or above' if row['called'] else 'below'} it"
        told["two thresholds"] = self.zone
        if "zone" in row:
            (low, high), sure = self.zone, f"({CONFIDENCE:.0%} confidence each); between them nothing is promised"
            both = f"{SHARE:.0%} of patients reach {low:.3g}, {SHARE:.0%} of others stay below {high:.3g}"
            told["two thresholds"] = f"{row['zone']}: {both} {sure}"
        usual = f"unusual by {row['unusual']:.2f}; {ORDINARY:.0%} of its films have at most {row['ordinary_up_to']:.2f}"
        unlike = "UNLIKE IT, so the probability means little: " if row["unlike"] else ""
        return told | {"against the training set": unlike + usual}

    def page(self, film: dict, words: dict[str, str]) -> str:
        """The film that was read last, as HTML that needs no network: numbers, Grad-CAM, first layer."""
        x, (first, *_, last) = self.feed.images(np.array([len(self.data.labels)])), interpret.layers(self.net)
        shown, cam = overlays.grey(film["image"], self.data.white, PICTURE), interpret.grad_cam(self.net, x, last)[0, 0]
        about = f"Grad-CAM of {last}" if cam.max() > cam.min() else f"Grad-CAM of {last}: flat"
        channels = [overlays.coloured(each, CHANNEL) for each in interpret.feature_maps(self.net, x, first)[0]]
        return PAGE.substitute(
            note=NOTE,
            numbers="".join(f"<tr><td>{name}</td><td>{text}</td></tr>" for name, text in words.items()),
            pictures=_figure(shown, "as the network gets it") + _figure(overlays.overlaid(shown, cam), about),
            channels="".join(_figure(each, str(place)) for place, each in enumerate(channels)),
            key=self.run.key,
        )


def _figure(picture: np.ndarray, caption: str) -> str:
    image = base64.b64encode(overlays.webp(picture, quality=80)).decode()
    shown = f"<img alt='{caption}' src='data:image/webp;base64,{image}'>"
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def answer(source: Path, key: str, page: bool = False) -> str:
    """What `python -m pneumo_nb read` prints: of one file lines of words, of a folder a CSV in the order of its files.

    With `page` one film's page is written to outputs/readings/, under a name made of the run and the prepared image.
    ValueError: what Reader says; a file is refused, with the reason; a folder holds none, or is asked for a page.
    """
    reader = Reader(key)
    if source.is_dir():
        files = sources.read(source)[0]
        refuse(page, "a page is of one film: name a file")
        refuse(not files, "the folder holds no files to read")
        rows = sorted(map(reader.read, reader.films(source, files)), key=lambda row: row["position"])
        return pd.DataFrame(rows).to_csv(index=False, float_format="%.9g")
    (film,) = reader.films(source.parent, [source.name])
    refuse("reason" in film, f"the file is refused: {film.get('reason')}")
    refuse(page and film["suspected_text"], "its pixels seem to show text, perhaps a name: leave --page out")
    words = reader.words(reader.read(film))
    if page:
        written = paths.root() / "outputs" / "readings" / f"{key}-{film['sha256'][:12]}.html"
        paths.write(written, reader.page(film, words))
        words["page"] = str(written.relative_to(paths.root()))
    return "".join(f"{name}: {text}\n" for name, text in (words | {"note": NOTE}).items())
