"""The saved state of widgets -> HTML that moves with no kernel and no network.

Only what the browser can do by itself comes along: a stack of pictures that a slider or a choice is linked to. A
control without such a link needs a kernel and is shown as it was left; a widget without any, such as a progress bar,
not at all.
"""

import html
import json

SCRIPT = """
for (const [from, to] of LINKS) {
  const source = document.getElementById(from), target = document.getElementById(to);
  const show = () => {
    const place = source.tagName === "SELECT" ? source.selectedIndex : Number(source.value);
    [...target.children].forEach((child, number) => { child.hidden = number !== place; });
    if (source.nextElementSibling) source.nextElementSibling.value = source.value;
  };
  source.addEventListener("input", show);
  show();
}
"""


def widget(model_id: str, models: dict[str, dict]) -> str:
    """One widget by its id in the notebook's saved `models` (their id -> model_name, state, buffers), or nothing."""
    links = [
        (_bare(state["source"][0]), _bare(state["target"][0]))
        for state in (model["state"] for model in models.values() if model["model_name"].endswith("LinkModel"))
        if state["target"][1] == "selected_index"
    ]
    inside = _element(model_id, models, links)
    moving = [link for link in links if all(f'id="{end}"' in inside for end in link)]
    if not moving:
        return ""
    script = "{" + SCRIPT.replace("LINKS", json.dumps(moving)) + "}"
    return f'<div class="widget">{inside}<script>{script}</script></div>'


def _element(model_id: str, models: dict[str, dict], links: list[tuple[str, str]]) -> str:
    model = models.get(model_id, {"model_name": "", "state": {}})
    kind, state = model["model_name"].removesuffix("Model"), model["state"]
    children = [_element(_bare(child), models, links) for child in state.get("children", [])]
    if kind in ("VBox", "HBox"):
        return "<div>" + "".join(children) + "</div>"
    if kind == "Stack":
        return f'<div id="{model_id}">' + "".join(f"<div hidden>{child}</div>" for child in children) + "</div>"
    if kind == "Image":
        (buffer,) = model["buffers"]
        width = models.get(_bare(state.get("layout", "")), {"state": {}})["state"].get("width") or "auto"
        source = f"data:image/{state.get('format', 'png')};base64,{buffer['data']}"
        return f'<img alt="picture" style="width: {html.escape(width)}" src="{source}">'
    if kind == "HTML":
        return f"<p>{state.get('value', '')}</p>"
    name = f"<span>{html.escape(state.get('description', ''))}</span>"
    if kind == "IntSlider":
        limits = " ".join(f'{end}="{state.get(end, usual)}"' for end, usual in (("min", 0), ("max", 100), ("value", 0)))
        return f'<label>{name}<input type="range" id="{model_id}" {limits}><output></output></label>'
    if kind == "Dropdown":
        return f"<label>{name}{_select(model_id, state, models, links)}</label>"
    return ""


def _select(model_id: str, state: dict, models: dict[str, dict], links: list[tuple[str, str]]) -> str:
    """A choice; the options whose picture was not drawn, or all if it moves nothing here, cannot be chosen."""
    moved = [models[target]["state"]["children"] for source, target in links if source == model_id and target in models]
    options = []
    for place, text in enumerate(state.get("_options_labels", [])):
        chosen = " selected" if place == state.get("index") else ""
        drawn = all(models[_bare(children[place])]["model_name"] != "HTMLModel" for children in moved)
        options.append(f"<option{chosen}{'' if drawn else ' disabled'}>{html.escape(text)}</option>")
    still = "" if moved else ' disabled title="needs a running notebook"'
    return f'<select id="{model_id}"{still}>' + "".join(options) + "</select>"


def _bare(reference: str) -> str:
    return reference.removeprefix("IPY_MODEL_")
