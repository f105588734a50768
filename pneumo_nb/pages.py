"""Executed notebooks -> pages that need no kernel and no network."""

import html
from pathlib import Path

import nbformat
from jinja2 import pass_context
from latex2mathml.converter import convert as mathml
from nbconvert import HTMLExporter
from nbconvert.filters import markdown_mistune
from pygments.formatters import HtmlFormatter

from pneumo_nb.results import sliders

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #1b1f23; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem 1.2rem 4rem; }
nav { font-size: .9rem; border-bottom: 1px solid #d0d7de; padding: .5rem 0; margin-bottom: 1rem; }
nav a { margin-right: .8rem; }
a { color: #0b57a4; }
h1, h2, h3 { line-height: 1.25; }
pre { overflow-x: auto; background: #f6f8fa; border-radius: 6px; }
pre { padding: .6rem .8rem; font-size: .84rem; margin: .4rem 0; }
.output pre { background: none; padding: .2rem .8rem; }
img { max-width: 100%; height: auto; }
table { border: 0; border-collapse: collapse; font-size: .86rem; margin: .6rem 0; display: block; overflow-x: auto; }
th, td { padding: .22rem .6rem; border: 0; border-bottom: 1px solid #d8dee4; text-align: left; }
.dataframe th, .dataframe td { text-align: right; }
thead th { border-bottom: 2px solid #8c959f; }
.prompt, .anchor-link { display: none; }
math[display=block] { margin: .8rem 0; overflow-x: auto; }
.widget { margin: .8rem 0; }
.widget label { display: grid; grid-template-columns: 6em minmax(0, 30em) auto; gap: .8rem; margin: .3rem 0; }
footer { margin-top: 3rem; font-size: .85rem; color: #57606a; border-top: 1px solid #d0d7de; padding-top: .6rem; }
"""
WIDGET = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
FOOTER = "Made by pneumo_nb from executed notebooks. For research; not a medical device."


class _Renderer(markdown_mistune.IPythonRenderer):
    """Markdown with equations as MathML, which a browser draws by itself."""

    def block_math(self, text: str) -> str:
        return mathml(text.replace("\\tag", "\\qquad\\qquad\\tag"), display="block")

    def inline_math(self, text: str) -> str:
        return mathml(text)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        return super().link(text, url.replace(".ipynb", ".html"), title)


class _Exporter(HTMLExporter):
    @pass_context
    def markdown2html(self, context, source: str) -> str:
        return markdown_mistune.MarkdownWithMath(renderer=_Renderer(escape=False)).render(source)


def page(notebook: Path, links: list[tuple[str, str]]) -> str:
    """One executed notebook as a whole HTML page; `links` are (title, file name) of the pages to go to.

    Widgets that move without a kernel become a part of the page; others, such as progress bars, are left out.
    """
    cells = nbformat.read(notebook, as_version=4)
    models = cells.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    for cell in cells.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if _moves_offline(output, models)]
    body, _ = _Exporter(template_name="basic").from_notebook_node(cells)
    return _whole(title(notebook), body, links)


def _moves_offline(output: nbformat.NotebookNode, models: dict[str, dict]) -> bool:
    """Put HTML in the place of a widget; false if nothing is left of it."""
    view = output.get("data", {}).get(WIDGET)
    if view:
        output.data = {"text/html": sliders.html(view["model_id"], models)}
    return not view or bool(output.data["text/html"])


def title(notebook: Path) -> str:
    """The first heading of a notebook."""
    first = nbformat.read(notebook, as_version=4).cells[0].source
    return first.splitlines()[0].lstrip("# ").strip()


def index(entries: list[dict[str, str]], facts: dict[str, str]) -> str:
    """The first page: what was run, on what, and each notebook with its state."""
    rows = "".join(
        f"<tr><td><a href='{html.escape(entry['file'])}'>{html.escape(entry['title'])}</a></td>"
        f"<td>{html.escape(entry['state'])}</td></tr>"
        for entry in entries
    )
    listed = "".join(f"<li>{html.escape(name)}: {html.escape(value)}</li>" for name, value in facts.items())
    body = (
        "<h1>Balanced convolutional neural networks for pneumoconiosis detection: a reproduction</h1>"
        f"<ul>{listed}</ul><table><thead><tr><th>Notebook</th><th>state</th></tr></thead>"
        f"<tbody>{rows}</tbody></table><p>All numbers as one table: <a href='tables.csv'>tables.csv</a></p>"
    )
    return _whole("pneumo_nb report", body, [])


def _whole(name: str, body: str, links: list[tuple[str, str]]) -> str:
    menu = "".join(f"<a href='{html.escape(file)}'>{html.escape(text)}</a>" for text, file in links)
    code = HtmlFormatter().get_style_defs(".highlight")
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(name)}</title>"
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}{code}</style></head>"
        f"<body><nav>{menu}</nav>{body}<footer>{FOOTER}</footer></body></html>\n"
    )
