"""papermill over the notebooks in their order; then the pages and tables of outputs/report/."""

import ast
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm
from traitlets.config import Config

from pneumo_nb import pages, paths, settings
from pneumo_nb.train import machine, runs, sweep


class Failed(RuntimeError):
    """A notebook stopped; the message names it and its cell."""


def notebooks(only: Sequence[str] = ()) -> list[Path]:
    """The numbered notebooks in order, or those whose number is in `only` ("02"); a ValueError names a wrong one."""
    found = {path.name[:2]: path for path in sorted(paths.notebooks().glob("[0-9][0-9]_*.ipynb"))}
    wrong = [number for number in only if number not in found]
    if wrong:
        raise ValueError(f"there is no notebook {', '.join(wrong)}; there is {', '.join(found)}")
    return [path for number, path in found.items() if not only or number in only]


def parameters(file: Path | None, given: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a YAML file, overruled by those given one by one; a ValueError says what is wrong with the file."""
    if file is None:
        return dict(given)
    if not file.is_file():
        raise ValueError(f"there is no parameter file {file}")
    try:
        content = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ValueError(f"{file} is not YAML: one NAME: value a line is right") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no parameters: one NAME: value a line is right")
    return content | given


def check(chosen: Sequence[Path], values: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """For each notebook those of `values` that it knows.

    A ValueError names a parameter that no notebook of the series has, or a value that is not valid, before anything
    runs. One that only notebooks left out know is let pass, so that a parameter file serves for any choice of them.
    """
    known = {path: papermill.inspect_notebook(str(path)) for path in notebooks()}
    everywhere = {name: entry["default"] for path in known for name, entry in known[path].items()}
    wrong = [name for name in values if name not in everywhere]
    if wrong:
        raise ValueError(
            f"there is no parameter {', '.join(wrong)}; the parameters are {', '.join(sorted(everywhere))}"
        )
    values = {name: _typed(name, value, everywhere[name]) for name, value in values.items()}
    for model in (settings.PhantomSettings, settings.PrepareSettings, settings.TrainSettings):
        model.from_parameters(values)
    if "SEEDS" in values:
        settings.seeds(values["SEEDS"])
    if values.get("SCHEDULER"):
        sweep.address(str(values["SCHEDULER"]))
    if values.get("RUN"):
        runs.load(str(values["RUN"]))
    device = runs.device(values.get("DEVICE", "auto"), elsewhere=bool(values.get("SCHEDULER")))
    if not values.get("SCHEDULER"):
        machine.refuse_incapable(settings.TrainSettings.from_parameters(values), device)
    dataset = str(values.get("DATASET", "phantom"))
    if not settings.is_phantom(dataset):
        _refuse_unfit(dataset)
    return {path: {name: values[name] for name in values if name in known[path]} for path in chosen}


def _typed(name: str, value: Any, default: str) -> Any:
    """A value given as text, read as the notebook's own value is meant: text stays text, "[0, 0.5]" is a list."""
    if not isinstance(value, str) or isinstance(ast.literal_eval(default), str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"{name} = {value!r} cannot be read: a value such as {default} is right") from None


def _refuse_unfit(dataset: str) -> None:
    parts = json.loads((paths.finished(dataset) / "dataset.json").read_text())["counts"]["parts"]
    for part in ("train", "test"):
        if set(parts.get(part, {})) != {"0", "1"}:
            raise ValueError(
                f"dataset {dataset!r} has not both classes in its {part} part:"
                " prepare it with --labels, a CSV with labels 0 and 1"
            )


def reproduce(values: dict[str, Any], only: Sequence[str] = (), jobs: int | str = 1) -> Path:
    """Execute the notebooks with these parameters and write the report; returns its first page.

    With `jobs` above 1, so many processes of this machine train runs at once.

    What a notebook needs and was done before is loaded, not done again. If a notebook fails, the ones before it and
    their pages stay, the ones after it still run, and `Failed` is raised at the end, naming each failure. While another
    process makes a report here, this one says so and waits.
    """
    chosen = notebooks(only)
    jobs = settings.jobs(jobs)
    if jobs > 1 and values.get("SCHEDULER"):
        raise ValueError("--jobs is for this machine and --scheduler for a cluster: choose one of them")
    check(chosen, values | ({"SCHEDULER": ""} if jobs > 1 else {}))
    folder = paths.executed() / str(values.get("DATASET", "phantom"))
    entries, failures = [], []
    with paths.alone(paths.report().with_name(".report.lock"), "the report"), _where(jobs, values) as scheduler:
        for left in (folder, paths.report()):
            paths.clear(left)
        assigned = check(chosen, values | scheduler)
        for path in tqdm(chosen, desc="notebooks", unit="notebook"):
            start = time.perf_counter()
            failure = _execute(path, folder / path.name, assigned[path])
            state = failure or f"done in {time.perf_counter() - start:.0f} s"
            failures += [failure] if failure else []
            entries.append({"file": path.with_suffix(".html").name, "title": pages.title(path), "state": state})
        first = _report(folder, entries, values)
    if failures:
        raise Failed("; ".join(failures))
    return first


@contextmanager
def _where(jobs: int, values: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The parameter that sends runs to a cluster of `jobs` processes, which lives as long; nothing for one job."""
    if jobs == 1:
        yield {}
        return
    with sweep.cluster(jobs, runs.device(values.get("DEVICE", "auto"))) as address:
        yield {"SCHEDULER": address}


def _execute(source: Path, target: Path, values: dict[str, Any]) -> str:
    """Run one notebook; the executed copy takes its place only when it is complete, or to show where it failed.

    What the notebook writes to stderr, as when it waits for another process, is shown at once.
    """
    failure = ""
    with paths.whole(target) as beside, _private_kernel() as config:
        options = {"progress_bar": False, "config": config, "stderr_file": sys.stderr}
        try:
            papermill.execute_notebook(str(source), str(beside), values, **options)
        except PapermillExecutionError as error:
            said = next(iter(error.evalue.splitlines()), "")
            failure = f"{source.name} failed in cell {error.exec_count}: {error.ename}: {said}"
        except DeadKernelError:
            failure = f"{source.name} failed: its process was killed, as systems do when memory runs out"
        _forget_address(beside)
    return failure


@contextmanager
def _private_kernel() -> Iterator[Config]:
    """A kernel is reached by socket files that only this user can open, not by TCP ports that the whole machine can."""
    with tempfile.TemporaryDirectory(prefix="pneumo_nb-") as folder:
        yield Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})


def _forget_address(executed: Path) -> None:
    """Leave out of an executed notebook on which machine its runs were trained: it may be shown to others."""
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata.papermill.parameters.pop("SCHEDULER", None)
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("SCHEDULER = "))
    nbformat.write(notebook, executed)


def _report(folder: Path, entries: list[dict[str, str]], values: dict[str, Any]) -> Path:
    """Write a page for each executed notebook and the first page; tables.csv is written by the last notebook."""
    links = [("contents", "index.html")] + [(entry["title"].split(" ")[0], entry["file"]) for entry in entries]
    for entry in entries:
        notebook = (folder / entry["file"]).with_suffix(".ipynb")
        with paths.whole(paths.report() / entry["file"]) as file:
            file.write_text(pages.page(notebook, links), encoding="utf-8")
    facts = {"Dataset": str(values.get("DATASET", "phantom"))} | {
        name: str(value) for name, value in values.items() if name not in ("DATASET", "SCHEDULER")
    }
    with paths.whole(paths.report() / "index.html") as file:
        file.write_text(pages.index(entries, facts), encoding="utf-8")
    return paths.report() / "index.html"
