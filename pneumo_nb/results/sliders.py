"""Maps under the hand: controls over pictures that `interpret` and `overlays` make, and the same without a kernel."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from html import escape
from pathlib import Path

import numpy as np
import torch
from ipywidgets import HTML, Dropdown, Image, IntSlider, Layout, Stack, VBox, jsdlink

from pneumo_nb.results import interpret, overlays
from pneumo_nb.train import dataset
from pneumo_nb.train.runs import Run

OUTCOMES = ("true positive", "false positive", "false negative", "true negative")  # in the order of the choice
SHOWN = 600  # pixels across which a map and its overlay are shown, however small they are kept
REFERENCE = "IPY_MODEL_"  # before an id, where one model's state names another
SCRIPT = Path(__file__).with_name("sliders.js").read_text()


class Channels(VBox):
    """A slider over the channels of one layer, and a choice of radiographs.

    The browser moves both by itself, so they move in a notebook that was executed before and on its page, too. The
    first `kept` radiographs are drawn at once; any other when it is chosen, which needs a kernel, and then kept.
    """

    def __init__(self, radiographs: Mapping[str, int], draw: Callable[[int], list[bytes]], kept: int):
        """`radiographs` names positions in the manifest; `draw` makes of one a WebP file of it and of each channel."""
        self._positions, self._draw = list(radiographs.values()), draw
        self._image_layout = Layout(width=f"{SHOWN}px", max_width="100%")
        not_drawn = HTML("This radiograph is drawn when it is chosen in a running notebook.")
        self.radiograph = _control(Dropdown, "radiograph", options=list(radiographs))
        self.pictures = Stack([not_drawn] * len(radiographs), selected_index=0)
        self.channel = _control(IntSlider, "channel")
        super().__init__([self.radiograph, self.channel, self.pictures])
        for place in range(min(max(kept, 1), len(radiographs))):
            self._fill(place)
        self.channel.max = len(self.pictures.children[0].children) - 1
        jsdlink((self.radiograph, "index"), (self.pictures, "selected_index"))
        self.radiograph.observe(lambda change: self._fill(change["new"]), "index")

    def _fill(self, place: int) -> None:
        drawn = list(self.pictures.children)
        if isinstance(drawn[place], HTML):
            files = self._draw(self._positions[place])
            images = [Image(value=file, format="webp", layout=self._image_layout) for file in files]
            drawn[place] = Stack(images, selected_index=self.channel.value)
            jsdlink((self.channel, "value"), (drawn[place], "selected_index"))
            self.pictures.children = drawn


class Explorer(VBox):
    """`Channels` of a run and a layer, and controls to change both, which need a kernel; nothing is drawn twice."""

    def __init__(self, trained: list[Run], data: dataset.Dataset, device: torch.device, side: int = 200, kept: int = 4):
        """`trained` are runs on `data`; a picture is twice `side` pixels wide; `kept` radiographs are drawn at once."""
        self._data, self._side = data, side
        self._runs: dict[str, tuple[Run, torch.nn.Module, dataset.Feed]] = {}
        for run in trained:
            run.check_fits(data)
            feed = dataset.Feed(data, device, run.settings.channels, run.settings.normalisation)
            name = f"{run.settings.model}, seed {run.settings.seed}, run {run.key}"
            self._runs[name] = run, run.network().to(device), feed
        self._panels: dict[tuple[str, str], Channels] = {}
        self.run = _control(Dropdown, "run", options=list(self._runs))
        self.layer = _control(Dropdown, "layer", options=interpret.layers(self._runs[self.run.value][1]))
        super().__init__()
        self._show(kept)
        for control in (self.run, self.layer):
            control.observe(lambda _: self._show(), "value")

    def _show(self, kept: int = 1) -> None:
        run, net, feed = self._runs[self.run.value]
        self.layer.options = interpret.layers(net)
        chosen = self.run.value, self.layer.value
        if chosen not in self._panels:
            self._panels[chosen] = Channels(by_outcome(run), partial(self._draw, run, net, feed, chosen[1]), kept)
        self.channels = self._panels[chosen]  # what is under the hand now
        self.children = [self.run, self.layer, self.channels]

    def _draw(self, run: Run, net: torch.nn.Module, feed: dataset.Feed, layer: str, position: int) -> list[bytes]:
        place = np.array([position])
        pictures = overlays.channels(
            overlays.grey(self._data.images[position, 0].numpy(), self._data.white, self._side),
            interpret.feature_maps(net, feed.images(place), layer)[0],
            dataset.width_mm(self._data.manifest.iloc[position], run.settings.fit),
            *dataset.masks(self._data, place).get("opacities", []),
        )
        return [overlays.webp(picture) for picture in pictures]


def by_outcome(run: Run) -> dict[str, int]:
    """The testing set as text -> position in the manifest: the surest of each outcome first, then the others."""
    test = run.predictions.query("split == 'test'")
    margin = test["probability"] - run.record["threshold"]
    test = test.assign(place=2 * (margin < 0) + (test["label"] == 0), sure=margin.abs())
    test["later"] = test.groupby("place")["sure"].rank("first", ascending=False) > 1
    rows = test.sort_values(["later", "place", "sure"], ascending=[True, True, False]).itertuples()
    return {f"{OUTCOMES[row.place]}, probability {row.probability:.3f}, {row.image_id}": row.Index for row in rows}


def _control(kind: type, name: str, **more) -> Dropdown | IntSlider:
    layout = Layout(width="40em", max_width="100%")
    return kind(description=name, style={"description_width": "6em"}, layout=layout, **more)


def html(model_id: str, models: dict[str, dict]) -> str:
    """One widget as HTML that moves with no kernel, by its id in a notebook's saved `models` (id -> name, state...).

    What the browser can do by itself comes along: stacks of pictures that a slider or a choice is linked to. A control
    without such a link is shown as it was left. Nothing, if there is no link, as in a progress bar.
    """
    links = [
        tuple(state[end][0].removeprefix(REFERENCE) for end in ("source", "target"))
        for state in (model["state"] for model in models.values() if model["model_name"].endswith("LinkModel"))
        if state["target"][1] == "selected_index"
    ]
    inside = _element(model_id, models, links)
    moving = [link for link in links if all(f'id="{end}"' in inside for end in link)]
    script = "{" + SCRIPT.replace("LINKS", json.dumps(moving)) + "}"
    return f'<div class="widget">{inside}<script>{script}</script></div>' if moving else ""


def _element(model_id: str, models: dict[str, dict], links: list[tuple[str, str]]) -> str:
    model = models.get(model_id, {"model_name": "", "state": {}})
    kind, state = model["model_name"].removesuffix("Model"), model["state"]
    children = [_element(child.removeprefix(REFERENCE), models, links) for child in state.get("children", [])]
    if kind == "VBox":
        return "<div>" + "".join(children) + "</div>"
    if kind == "Stack":
        return f'<div id="{model_id}">' + "".join(f"<div hidden>{child}</div>" for child in children) + "</div>"
    if kind == "Image":
        source = f"data:image/{state.get('format', 'png')};base64,{model['buffers'][0]['data']}"
        return f'<img alt="picture" style="width: {SHOWN}px" src="{source}">'
    if kind == "HTML":
        return f"<p>{state.get('value', '')}</p>"
    name = f"<span>{escape(state.get('description', ''))}</span>"
    if kind == "IntSlider":
        limits = " ".join(f'{end}="{state.get(end, usual)}"' for end, usual in (("min", 0), ("max", 100), ("value", 0)))
        return f'<label>{name}<input type="range" id="{model_id}" {limits}><output></output></label>'
    if kind == "Dropdown":
        still = "" if model_id in dict(links) else ' disabled title="needs a running notebook"'
        marks = {state.get("index"): " selected"}
        texts = enumerate(map(escape, state["_options_labels"]))
        options = "".join(f"<option{marks.get(place, '')}>{text}</option>" for place, text in texts)
        return f'<label>{name}<select id="{model_id}"{still}>{options}</select></label>'
    return ""
