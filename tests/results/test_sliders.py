import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import toy
from ipywidgets import HTML, Dropdown, HBox, Image, IntProgress, IntSlider, Stack, VBox, jsdlink
from ipywidgets.embed import embed_data

from pneumo_nb.results import interpret, overlays, sliders
from pneumo_nb.settings import TrainSettings
from pneumo_nb.train import dataset, runs

CPU = torch.device("cpu")
SMALL = {"model": "densenet", "depth": 7, "blocks": 2, "image_size": 32, "channels": 1, "epochs": 1, "batch_size": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PNEUMO_NB_HOME", str(tmp_path_factory.mktemp("home")))
        yield toy.load(toy.prepared())


@pytest.fixture(scope="module")
def trained(data):
    """Two small DenseNets, of 24 and 16 maps in the first layer."""
    chosen = (TrainSettings.of(**SMALL), TrainSettings.of(**SMALL | {"growth_rate": 8, "depth": 11}))
    return [runs.load_or_train(each, data, CPU, progress=False) for each in chosen]


def picture(image):
    return cv2.imdecode(np.frombuffer(image.value, np.uint8), cv2.IMREAD_COLOR)


class Drawing:
    """Three WebP pictures of one grey for each radiograph, and a note of those asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, position):
        self.asked.append(position)
        return [overlays.webp(np.full((8, 16, 3), 10 * position + channel, np.uint8)) for channel in range(3)]


def test_only_the_radiographs_to_be_kept_are_drawn_at_once_and_others_when_chosen():
    draw = Drawing()
    panel = sliders.Channels({"a": 4, "b": 7, "c": 5}, draw, kept=2)
    assert draw.asked == [4, 7] and panel.channel.max == 2
    assert [type(child) for child in panel.pictures.children] == [Stack, Stack, HTML]
    panel.radiograph.index = 2
    assert draw.asked == [4, 7, 5] and isinstance(panel.pictures.children[2], Stack)
    panel.radiograph.index = 0
    panel.radiograph.index = 2
    assert draw.asked == [4, 7, 5]


def test_the_first_radiograph_is_always_drawn_and_no_more_than_there_are():
    draw = Drawing()
    sliders.Channels({"a": 4, "b": 7}, draw, kept=0)
    sliders.Channels({"a": 4, "b": 7}, draw, kept=9)
    assert draw.asked == [4, 4, 7]


def test_a_radiograph_that_is_drawn_later_shows_the_channel_of_the_slider():
    panel = sliders.Channels({"a": 4, "b": 7}, Drawing(), kept=1)
    panel.channel.value = 2
    panel.radiograph.index = 1
    assert panel.pictures.children[1].selected_index == 2


def test_every_channel_of_the_first_layer_has_its_picture_behind_the_radiographs(data, trained):
    explorer = sliders.Explorer(trained, data, CPU, side=32, kept=1)
    images = explorer.channels.pictures.children[0].children
    assert len(images) == 1 + 24 == explorer.channels.channel.max + 1
    position = next(iter(sliders.by_outcome(trained[0]).values()))
    feed = dataset.Feed(data, CPU, 1, "none")
    maps = interpret.feature_maps(trained[0].network(), feed.images(np.array([position])), "stem")[0]
    drawn = picture(images[3])[8:24, 8:24]  # off the marks
    expected = overlays.coloured(maps[2], 32)[8:24, 8:24, ::-1]
    assert abs(drawn.astype(int) - expected).mean() < 20 < abs(255 - drawn.astype(int) - expected).mean()


def test_another_layer_and_another_run_are_computed_once(data, trained, monkeypatch):
    asked, compute = [], interpret.feature_maps
    monkeypatch.setattr(interpret, "feature_maps", lambda net, x, layer: asked.append(layer) or compute(net, x, layer))
    explorer = sliders.Explorer(trained, data, CPU, side=32, kept=2)
    assert asked == ["stem"] * 2 and explorer.layer.options == ("stem", "features.dense1", "features.dense2")
    explorer.layer.value = "features.dense1"
    assert explorer.channels.channel.max == 24 + 12 and asked[2:] == ["features.dense1"]
    explorer.run.index = 1
    assert explorer.layer.value == "features.dense1" and explorer.channels.channel.max == 16 + 2 * 8
    assert explorer.children[2] is explorer.channels
    computed = len(asked)
    explorer.run.index = 0
    explorer.layer.value = "stem"
    assert len(asked) == computed and explorer.channels.channel.max == 24


def test_opacities_are_outlined_where_they_are_known(data, trained):
    plain = sliders.Explorer(trained[1:], data, CPU, side=60, kept=8)
    toy.masks()
    outlined = sliders.Explorer(trained[1:], data, CPU, side=60, kept=8)
    for place, position in enumerate(sliders.by_outcome(trained[1]).values()):
        before, after = (picture(each.channels.pictures.children[place].children[0]) for each in (plain, outlined))
        assert (before != after).any() == bool(data.labels[position])


def test_each_outcome_comes_first_once_and_the_surest_of_it(trained):
    order = sliders.by_outcome(trained[0])
    test = trained[0].predictions.query("split == 'test'")
    assert sorted(order.values()) == test.index.tolist()
    counts = trained[0].counts
    there = dict(zip(sliders.OUTCOMES, (counts.tp, counts.fp, counts.fn, counts.tn), strict=True))
    assert {name: sum(text.startswith(name) for text in order) for name in there} == there
    outcomes = [name for name, images in there.items() if images]
    first = [text.split(",")[0] for text in list(order)[: len(set(outcomes))]]
    assert first == [outcome for outcome in sliders.OUTCOMES if outcome in outcomes]
    for text in first:
        sure = {
            name: abs(test["probability"][position] - trained[0].record["threshold"])
            for name, position in order.items()
            if name.startswith(text)
        }
        assert next(iter(sure)) == max(sure, key=sure.get)


def test_the_surest_is_the_farthest_from_the_runs_own_threshold(trained):
    test = trained[0].predictions.query("split == 'test'")
    low = test["probability"].quantile(0.3)
    order = sliders.by_outcome(replace(trained[0], record=trained[0].record | {"threshold": low}))
    called = [position for text, position in order.items() if "positive," in text]
    assert len(called) == (test["probability"] >= low).sum() > len(test) / 2
    for text in {text.split(",")[0] for text in order}:
        margins = [abs(test["probability"][place] - low) for name, place in order.items() if name.startswith(text)]
        assert margins[0] == max(margins)


def test_a_run_of_another_size_or_dataset_is_refused(data, trained):
    with pytest.raises(ValueError, match=r"loaded at image_size = 40, .* say image_size = 32"):
        sliders.Explorer(trained, toy.load("toy", 40), CPU)
    with pytest.raises(ValueError, match="was trained on 'toy', which is not this 'other'"):
        sliders.Explorer(trained, toy.load(toy.prepared("other", seed=1), 32), CPU)


def still_page(widget):
    models = embed_data([widget])["manager_state"]["state"]
    return sliders.html(widget.model_id, models)


def pictures(*values):
    return Stack([Image(value=value, format="webp") for value in values], selected_index=0)


def test_a_linked_slider_becomes_a_range_over_the_pictures():
    slider, stack = IntSlider(description="channel", min=0, max=2, value=1), pictures(b"a", b"b", b"c")
    jsdlink((slider, "value"), (stack, "selected_index"))
    text = still_page(VBox([slider, stack]))
    assert (
        re.search(r'<input type="range" id="\w+" min="0" max="2" value="1">', text) and "<span>channel</span>" in text
    )
    assert re.findall('data:image/webp;base64,([^"]+)', text) == ["YQ==", "Yg==", "Yw=="]
    assert f'["{slider.model_id}", "{stack.model_id}"]' in text and text.count("<script>") == 1


@pytest.mark.parametrize("still", [HBox([IntProgress(), HTML("50%")]), VBox([IntSlider(), pictures(b"a")])])
def test_what_moves_only_with_a_kernel_is_left_out(still):
    assert still_page(still) == ""


def test_a_control_that_needs_a_kernel_is_shown_as_it_was_left():
    slider, stack, run = IntSlider(max=1), pictures(b"a", b"b"), Dropdown(options=["one", "<two>"], index=1)
    jsdlink((slider, "value"), (stack, "selected_index"))
    text = still_page(VBox([run, slider, stack]))
    assert re.search(r'<select id="\w+" disabled title="needs a running notebook">', text)
    assert "<option selected>&lt;two&gt;</option>" in text


def test_a_picture_that_was_not_drawn_is_told_where_it_would_stand():
    choice, drawn = Dropdown(options=["a", "b"]), pictures(b"a")
    stack = Stack([drawn, HTML("later")], selected_index=0)
    jsdlink((choice, "index"), (stack, "selected_index"))
    text = still_page(VBox([choice, stack]))
    assert "<option selected>a</option><option>b</option>" in text and "<div hidden><p>later</p></div>" in text


def test_links_of_other_widgets_stay_out():
    def one():
        slider, stack = IntSlider(max=1), pictures(b"a", b"b")
        jsdlink((slider, "value"), (stack, "selected_index"))
        return VBox([slider, stack])

    first, second = one(), one()
    models = embed_data([first, second])["manager_state"]["state"]
    text = sliders.html(first.model_id, models)
    assert text.count('"range"') == 1 and second.children[0].model_id not in text


def test_state_that_was_not_saved_leaves_nothing():
    assert sliders.html("unknown", {}) == ""
