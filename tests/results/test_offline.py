import re

import pytest
from ipywidgets import HTML, Dropdown, HBox, Image, IntProgress, IntSlider, Stack, VBox, jsdlink
from ipywidgets.embed import embed_data

from pneumo_nb.results import offline


def page(widget):
    models = embed_data([widget])["manager_state"]["state"]
    return offline.widget(widget.model_id, models)


def pictures(*values):
    return Stack([Image(value=value, format="webp") for value in values], selected_index=0)


def test_a_linked_slider_becomes_a_range_over_the_pictures():
    slider, stack = IntSlider(description="channel", min=0, max=2, value=1), pictures(b"a", b"b", b"c")
    jsdlink((slider, "value"), (stack, "selected_index"))
    text = page(VBox([slider, stack]))
    assert (
        re.search(r'<input type="range" id="\w+" min="0" max="2" value="1">', text) and "<span>channel</span>" in text
    )
    assert re.findall('data:image/webp;base64,([^"]+)', text) == ["YQ==", "Yg==", "Yw=="]
    assert f'["{slider.model_id}", "{stack.model_id}"]' in text and text.count("<script>") == 1


@pytest.mark.parametrize("still", [HBox([IntProgress(), HTML("50%")]), VBox([IntSlider(), pictures(b"a")])])
def test_what_moves_only_with_a_kernel_is_left_out(still):
    assert page(still) == ""


def test_a_control_that_needs_a_kernel_is_shown_as_it_was_left():
    slider, stack, run = IntSlider(max=1), pictures(b"a", b"b"), Dropdown(options=["one", "<two>"], index=1)
    jsdlink((slider, "value"), (stack, "selected_index"))
    text = page(VBox([run, slider, stack]))
    assert re.search(r'<select id="\w+" disabled title="needs a running notebook">', text)
    assert "<option selected>&lt;two&gt;</option>" in text


def test_a_picture_that_was_not_drawn_cannot_be_chosen():
    choice, drawn = Dropdown(options=["a", "b"]), pictures(b"a")
    stack = Stack([drawn, HTML("later")], selected_index=0)
    jsdlink((choice, "index"), (stack, "selected_index"))
    text = page(VBox([choice, stack]))
    assert "<option selected>a</option>" in text and "<option disabled>b</option>" in text


def test_links_of_other_widgets_stay_out():
    def one():
        slider, stack = IntSlider(max=1), pictures(b"a", b"b")
        jsdlink((slider, "value"), (stack, "selected_index"))
        return VBox([slider, stack])

    first, second = one(), one()
    models = embed_data([first, second])["manager_state"]["state"]
    text = offline.widget(first.model_id, models)
    assert text.count('"range"') == 1 and second.children[0].model_id not in text


def test_state_that_was_not_saved_leaves_nothing():
    assert offline.widget("unknown", {}) == ""
