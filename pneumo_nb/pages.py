"""Executed notebooks -> pages that need no kernel and no network."""

import html
from collections.abc import Sequence
from pathlib import Path

import nbformat
from latex2mathml.converter import convert as mathml
from nbconvert import HTMLExporter
from nbconvert.filters import markdown_mistune
from pygments.formatters import HtmlFormatter

from pneumo_nb import paths, settings
from pneumo_nb.results import sliders

STYLE = Path(__file__).with_name("style.css").read_text()
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


MARKDOWN = markdown_mistune.MarkdownWithMath(renderer=_Renderer(escape=False))


def report(folder: Path, names: list[str], kept: Sequence[str] = ()) -> Path:
    """Write outputs/report for the executed notebooks of a dataset, in the order of `names`; returns its first page.

    It says which were `kept` as before. A page that would be the same is left alone, one of another dataset removed.
    tables.csv is written by notebook 12.
    """
    made = [folder / name for name in names if (folder / name).is_file()]
    links = [("contents", "index.html")] + [(path.name[:2], f"{path.stem}.html") for path in made]
    for other in set(paths.report().glob("[0-9][0-9]_*.html")) - {paths.report() / file for _, file in links}:
        other.unlink()
    for path in made:
        target = paths.report() / f"{path.stem}.html"
        mark = f"<!-- {settings.digest([path.read_text(encoding='utf-8'), links, STYLE])} --></html>\n"
        if not (target.is_file() and target.read_text(encoding="utf-8").endswith(mark)):
            paths.write(target, page(path, links).removesuffix("</html>\n") + mark)
    paths.write(paths.report() / "index.html", index(folder.name, made, kept))
    return paths.report() / "index.html"


def page(notebook: Path, links: list[tuple[str, str]]) -> str:
    """One executed notebook as a whole HTML page; `links` are (title, file name) of the pages to go to.

    Widgets that move without a kernel become a part of the page; others, such as progress bars, are left out.
    """
    cells = nbformat.read(notebook, as_version=4)
    models = cells.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    for cell in cells.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if _moves_offline(output, models)]
    body, _ = HTMLExporter(template_name="basic", filters={"markdown2html": MARKDOWN.render}).from_notebook_node(cells)
    return _whole(_title(cells), body, links)


def _moves_offline(output: nbformat.NotebookNode, models: dict[str, dict]) -> bool:
    """Put HTML in the place of a widget; false if nothing is left of it."""
    view = output.get("data", {}).get(WIDGET)
    if view:
        output.data = {"text/html": sliders.html(view["model_id"], models)}
    return not view or bool(output.data["text/html"])


def _title(notebook: nbformat.NotebookNode) -> str:
    return notebook.cells[0].source.splitlines()[0].lstrip("# ").strip()


def index(dataset: str, made: list[Path], kept: Sequence[str] = ()) -> str:
    """The first page: every executed notebook of a dataset, with its state, when it was made and with what."""
    rows = ""
    for notebook in made:
        content = nbformat.read(notebook, as_version=4)
        ours, papermills = (content.metadata.get(name, {}) for name in ("pneumo_nb", "papermill"))
        as_before = ", as before" if notebook.name in kept else ""
        state = ours.get("failure") or f"done in {papermills.get('duration', 0):.0f} s{as_before}"
        when = papermills.get("end_time", "")[:16].replace("T", " ")
        given = ", ".join(f"{name} = {value}" for name, value in papermills.get("parameters", {}).items())
        rows += f"<tr><td><a href='{notebook.stem}.html'>{html.escape(_title(content))}</a></td>"
        rows += "".join(f"<td>{html.escape(cell)}</td>" for cell in (state, when, given or "as it stands")) + "</tr>"
    body = (
        "<h1>Balanced convolutional neural networks for pneumoconiosis detection: a reproduction</h1>"
        f"<p>Dataset: {html.escape(dataset)}</p><table><thead><tr><th>Notebook</th><th>state</th><th>made (UTC)</th>"
        f"<th>with</th></tr></thead><tbody>{rows}</tbody></table>"
        "<p>All numbers as one table: <a href='tables.csv'>tables.csv</a></p>"
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
