"""One new radiograph, or a folder of them, through the road of a run's dataset: a probability and what it is worth.

Each file is read in a guarded process and refused as in preparing. Nothing of its header, name or path comes out: what
is printed or written are pixels, numbers and words from here; the files of a folder are told apart by their place.
"""

import base64
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from pneumo_nb import paths, prepare, processes
from pneumo_nb.beyond import decisions
from pneumo_nb.prepare import convert, images, sources
from pneumo_nb.results import interpret, overlays
from pneumo_nb.settings import PrepareSettings
from pneumo_nb.train import dataset, loop, runs

SHARE, CONFIDENCE = 0.9, 0.95  # of patients found, and of healthy people spared, by the two thresholds of the zone
ORDINARY = 0.99  # share of the training set that counts as ordinary
PICTURE, CHANNEL = 400, 120  # pixels a side on the page
NO_VALIDATION = "the run's dataset has no validation part with both classes: prepare it with validation_fraction"
NOTE = "For research only; not a medical device."
STYLE = """body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f23; max-width: 54rem; margin: auto; padding: 1rem }
figure { display: inline-block; margin: 0 .6rem .6rem 0 } figcaption { font-size: .85rem } img { max-width: 100% }
td { padding: .2rem .8rem .2rem 0; vertical-align: top } .note { font-weight: 600 }"""


@dataclass(frozen=True)
class Film:
    """One file as the network gets it, or why it does not."""

    position: int  # among the files of a folder, from 1
    reason: str = ""
    image: np.ndarray | None = None  # (size, size), grey
    sha256: str = ""  # of the prepared image
    suspected_text: int = 0


class Reader:
    """A finished run and the dataset that it was trained on; a ValueError if either is not there or has changed."""

    def __init__(self, key: str):
        self.run = runs.load(key)
        self.net = self.run.network()
        self.name = self.run.record["dataset"]["name"]
        self.prepared_as = PrepareSettings.of(**prepare.read_dataset(self.name)[1]["settings"])
        self.labels, probabilities = self.run.on("validation")
        self.validation = probabilities.astype(np.float32).astype(float)  # as the network gave them

    @cached_property
    def data(self) -> dataset.Dataset:
        """The dataset, with one place more, the last: for the radiograph that is read."""
        data = dataset.load(self.name, self.run.settings)
        self.run.check_fits(data)
        return replace(data, images=torch.cat([data.images, data.images[:1]]))

    @cached_property
    def feed(self) -> dataset.Feed:
        """What the network sees of it."""
        return dataset.Feed(self.data, torch.device("cpu"), self.run.settings.channels, self.run.settings.normalisation)

    @cached_property
    def training(self) -> np.ndarray:
        """The training set, small: (images, side, side)."""
        return np.stack([self.small(image[0]) for image in self.data.images[self.data.part("train")].numpy()])

    @cached_property
    def calibrated(self) -> Callable | None:
        """Platt's line, fitted on the validation part."""
        both = len(set(self.labels)) == 2
        return decisions.calibration("platt", self.labels, self.validation) if both else None

    @cached_property
    def zone(self) -> tuple[float, float] | str:
        """The two thresholds that the validation part can promise, or why it cannot."""
        try:
            return decisions.zone(self.labels, self.validation, SHARE, SHARE, CONFIDENCE)
        except ValueError as few:
            return str(few)

    def small(self, image: np.ndarray) -> np.ndarray:
        """A (size, size) radiograph as the measure of notebook 01 needs it."""
        return cv2.resize((image // (self.data.white // 255)).astype(np.uint8), (48, 48), interpolation=cv2.INTER_AREA)

    def films(self, folder: Path, files: list[str]) -> Iterator[Film]:
        """What becomes of each of the files in a folder, in the order in which they end."""
        tasks = [convert.Task(file, f"film{place}", sources.Row(), place) for place, file in enumerate(files, start=1)]
        with tempfile.TemporaryDirectory() as aside:
            (Path(aside) / "images").mkdir()
            one = partial(convert.convert, convert.Job(folder, Path(aside), self.prepared_as, key=b""))
            workers = min(len(tasks), processes.cores())
            for task, told in processes.spread(one, tasks, workers, imports=convert.LOADED):
                told = {"reason": told.reason} if isinstance(told, processes.Lost) else told
                if "reason" in told:
                    yield Film(task.position, told["reason"])
                    continue
                content = (Path(aside) / told["file"]).read_bytes()
                (Path(aside) / told["file"]).unlink()
                picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
                image = dataset.square(picture, self.run.settings.image_size, self.run.settings.fit)
                yield Film(task.position, "", image, hashlib.sha256(content).hexdigest(), told["suspected_text"])

    def read(self, film: Film) -> dict:
        """A row on one film: its probability and, of a validation part, what that is worth; how unusual it looks."""
        if film.reason:
            return {"position": film.position, "reason": film.reason}
        self.data.images[-1, 0] = torch.from_numpy(film.image.astype(self.data.images.numpy().dtype))
        probability = loop.predict(self.net, self.feed, np.array([len(self.data.labels)]))[0]
        unusual = images.unusual(np.concatenate([self.training, self.small(film.image)[None]]))
        ordinary = np.quantile(unusual[:-1], ORDINARY)
        row = {"position": film.position, "reason": "", "probability": probability}
        row["called"] = int(probability >= self.run.record["threshold"])
        if self.calibrated:
            row["calibrated"] = self.calibrated([probability])[0]
            row["as_suspicious"] = (self.validation >= float(probability)).mean()
        if not isinstance(self.zone, str):
            row["zone"] = ("negative", "uncertain", "positive")[int((np.array(self.zone) <= float(probability)).sum())]
        row |= {"unusual": unusual[-1], "ordinary": ordinary, "unlike": int(unusual[-1] > ordinary)}
        return row | {"suspected_text": film.suspected_text}

    def told(self, row: dict) -> dict[str, str]:
        """The same in words."""
        threshold, images_of = self.run.record["threshold"], f"{len(self.labels)} validation films"
        words = {
            "probability of pneumoconiosis": str(row["probability"]),
            "calibrated": f"{row['calibrated']:.3f}, by Platt's line on {images_of}"
            if self.calibrated
            else NO_VALIDATION,
            "at the run's threshold": f"{'at or above' if row['called'] else 'below'} {threshold:g}",
        }
        if isinstance(self.zone, str):
            words["thresholds with a guarantee"] = self.zone if len(self.labels) else NO_VALIDATION
        else:
            low, high = self.zone
            words["between two thresholds"] = (
                f"{row['zone']}: below {low:.3f} is negative ({SHARE:.0%} of patients lie above), from {high:.3f} on"
                f" positive ({SHARE:.0%} of the healthy lie below), each with {CONFIDENCE:.0%} confidence"
            )
        if self.calibrated:
            words["at least as suspicious"] = f"{row['as_suspicious']:.0%} of {images_of}"
        words["compared with the training set"] = (
            f"{'UNLIKE it' if row['unlike'] else 'ordinary'}: unusual by {row['unusual']:.2f}, where {ORDINARY:.0%} of"
            f" its films have at most {row['ordinary']:.2f}" + "; do not trust the probability" * row["unlike"]
        )
        if row["suspected_text"]:
            words["text"] = "its pixels seem to show text"
        return words | {"note": NOTE}

    def page(self, film: Film, words: dict[str, str]) -> str:
        """The film that was read last as an HTML page without network: numbers, Grad-CAM, the first layer's channels."""
        x, layers = self.feed.images(np.array([len(self.data.labels)])), interpret.layers(self.net)
        shown = overlays.grey(film.image, self.data.white, PICTURE)
        cam = interpret.grad_cam(self.net, x, layers[-1])[0, 0]
        channels = interpret.feature_maps(self.net, x, layers[0])[0]
        numbers = "".join(f"<tr><td>{name}</td><td>{text}</td></tr>" for name, text in words.items())
        body = [f"<h1>One radiograph</h1><p class='note'>{NOTE}</p><table>{numbers}</table>"]
        body += [_figure(shown, "the film as the network gets it")]
        body += [
            _figure(overlays.overlaid(shown, cam), f"Grad-CAM of {layers[-1]}" + ": flat" * (cam.max() == cam.min()))
        ]
        body += [f"<h2>{len(channels)} channels of the first layer, {layers[0]}</h2>"]
        body += [_figure(overlays.coloured(each, CHANNEL), str(place)) for place, each in enumerate(channels)]
        body += [f"<p>Run {self.run.key}; the brightest colour is each picture's own highest value.</p>"]
        head = f"<meta charset='utf-8'><title>One radiograph</title><style>{STYLE}</style>"
        return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _figure(picture: np.ndarray, caption: str) -> str:
    data = base64.b64encode(overlays.webp(picture, quality=80)).decode()
    return (
        f"<figure><img alt='{caption}' src='data:image/webp;base64,{data}'><figcaption>{caption}</figcaption></figure>"
    )


def answer(source: Path, key: str, page: bool = False) -> str:
    """What `python -m pneumo_nb read` prints: of one file lines of words, of a folder a CSV in the order of its files.

    With `page` one film's page is written to outputs/readings/, under a name made of the run and the prepared image.
    ValueError: what Reader says; a file is refused, with the reason; a folder holds none, or is asked for a page.
    """
    reader = Reader(key)
    if source.is_dir():
        if page:
            raise ValueError("a page is of one film: name a file, or leave --page out")
        if not (files := sources.read(source)[0]):
            raise ValueError("the folder holds no files: it must hold DICOM, JPG or PNG files")
        rows = sorted(map(reader.read, reader.films(source, files)), key=lambda row: row["position"])
        return pd.DataFrame(rows).to_csv(index=False, float_format="%.9g")
    (film,) = reader.films(source.parent, [source.name])
    if film.reason:
        raise ValueError(f"the file is refused: {film.reason}")
    if page and film.suspected_text:
        raise ValueError("its pixels seem to show text, which may be a name: no page is written; leave --page out")
    words = reader.told(reader.read(film))
    lines = [f"{name}: {text}" for name, text in words.items()]
    if page:
        written = paths.root() / "outputs" / "readings" / f"{key}-{film.sha256[:12]}.html"
        with paths.whole(written) as file:
            file.write_text(reader.page(film, words), encoding="utf-8")
        lines.append(f"page: {written.relative_to(paths.root())}")
    return "\n".join(lines) + "\n"
