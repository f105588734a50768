"""papermill over the notebooks in their order; then the pages and tables of outputs/report/."""

import ast
import hashlib
import json
import logging
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import papermill
import yaml
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm
from traitlets.config import Config

from pneumo_nb import pages, paths, processes, settings
from pneumo_nb.train import machine, reference, runs, sweep

ROOM, SMALL = 6 * 2**30, 256  # bytes of free memory, and pixels a side, with which two notebooks run at once


class Failed(RuntimeError):
    """A notebook stopped; the message names it and its cell."""


def notebooks(only: Sequence[str] = ()) -> list[Path]:
    """The numbered notebooks in order, or those whose number is in `only` ("02"); a ValueError names a wrong one."""
    found = {path.name[:2]: path for path in sorted(paths.notebooks().glob("[0-9][0-9]_*.ipynb"))}
    wrong = [number for number in only if number not in found]
    settings.refuse(wrong, f"there is no notebook {', '.join(wrong)}; there is {', '.join(found)}")
    return [path for number, path in found.items() if not only or number in only]


def parameters(file: Path | None, given: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a YAML file, overruled by those given one by one; a ValueError says what is wrong with the file.

    What is no list stays the text that it is in the file: 0777 may be the name of a dataset.
    """
    if file is None:
        return dict(given)
    try:
        content, texts = (yaml.load(file.read_text(), loader) for loader in (yaml.SafeLoader, yaml.BaseLoader))
    except (yaml.YAMLError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no parameters: YAML with one NAME: value a line is right")
    read = zip(map(str, content), content.values(), texts.values(), strict=True)
    return {name: value if isinstance(value, list | dict) else text for name, value, text in read} | given


def check(chosen: Sequence[Path], values: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """For each notebook those of `values` that it knows: what it declares, and all settings if it declares any.

    A ValueError names a parameter that is neither a setting nor of any notebook, or a value that is not valid, before
    anything runs. One that only notebooks left out know is let pass: a parameter file serves for any choice of them.
    """
    declared = {path: papermill.inspect_notebook(str(path)) for path in notebooks()}
    defaults = {name: entry["default"] for entries in declared.values() for name, entry in entries.items()}
    if small := [name for name in values if not name.isupper()]:
        raise ValueError(f"there is no parameter {small[0]}: they are in capitals, such as {small[0].upper()}")
    settings.refuse_unknown(values, defaults)
    fields = {name.upper() for stage in settings.STAGES for name in stage.model_fields}
    values = values | {name: _typed(name, values[name], defaults.get(name, "''")) for name in values.keys() - fields}
    for stage in settings.STAGES:
        values |= {name.upper(): value for name, value in stage.from_parameters(values) if name.upper() in values}
    settings.seeds(values.get("SEEDS", 0))
    if values.get("RUN"):
        runs.load(str(values["RUN"]))
    device = runs.device(values.get("DEVICE", "auto"), elsewhere=bool(values.get("SCHEDULER")))
    if values.get("SCHEDULER"):
        sweep.address(str(values["SCHEDULER"]))
    else:
        machine.refuse_incapable(settings.TrainSettings.from_parameters(values), device)
    if not settings.is_phantom(dataset := values.get("DATASET", "phantom")):
        counts = paths.read_dataset(dataset)[1]["counts"]["parts"]
        for part in ("train", "test"):
            if counts.get(part, {}).keys() != {"0", "1"}:
                raise ValueError(f"dataset {dataset!r} has not both classes in its {part} part: prepare it with labels")
    known = {path: declared[path].keys() | (fields if fields & declared[path].keys() else set()) for path in chosen}
    return {path: {name: values[name] for name in values if name in known[path]} for path in chosen}


def _typed(name: str, value: Any, default: str) -> Any:
    """A value given as text, read as the notebook's own value is meant: text stays text, "[0, 0.5]" is a list."""
    if not isinstance(value, str) or isinstance(ast.literal_eval(default), str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"{name} = {value!r} cannot be read: a value such as {default} is right") from None


def reproduce(
    values: dict[str, Any], only: Sequence[str] = (), jobs: int = 1, reference: str = "", command: str = ""
) -> Path:
    """Execute the notebooks with these parameters and write the report; returns its first page.

    With `jobs` above 1, so many processes of this machine train runs at once. With the name of a `reference`, the runs
    on the dataset are kept there too, with the `command` that makes them again.

    What was trained before is loaded. Notebooks of which nothing has changed, down to the bytes that they read, stay as
    they were executed, as the first page and a line on stderr say; the first that has changed, all after it, those in
    `only` and the last one, the report, are executed. If one fails, the others still run, and `Failed` is raised at the
    end, naming each failure. While another process makes a report here, this one says so and waits.
    """
    chosen, dataset = notebooks(only), values.get("DATASET", "phantom")
    processes.refuse_count("--jobs", jobs)
    settings.refuse(jobs > 1 and values.get("SCHEDULER"), f"--jobs {jobs}: --scheduler trains elsewhere, without it")
    if reference and not re.fullmatch("[a-z0-9][a-z0-9-]*", reference):
        raise ValueError(f"--reference {reference}: small letters, digits and hyphens are right")
    assigned = check(chosen, values | ({"SCHEDULER": ""} if jobs > 1 else {}))
    folder = paths.report().with_name("executed") / dataset
    own = sweep.cluster(jobs, runs.device(values.get("DEVICE", "auto"))) if jobs > 1 else nullcontext()
    with paths.alone(paths.report().with_name(".report.lock"), "the report"), own as address:
        for left in (folder, paths.report()):
            paths.clear(left)
        for given in assigned.values():
            given |= {"SCHEDULER": address} if address and "SCHEDULER" in given else {}
        asked = _asked(assigned)  # before any is run: what somebody edits meanwhile is for the next time
        signed = folder / "signatures.json"
        before = json.loads(signed.read_text()) if signed.is_file() else {}
        now = {} if only else _signatures(asked, folder)
        kept = list(takewhile(lambda name: now.get(name) == before.get(name, ""), list(asked)[:-1]))
        if kept:
            numbers = ", ".join(name[:2] for name in kept)
            print(f"as before, since nothing has changed: {numbers} (--only runs any of them anew)", file=sys.stderr)
        failures = _execute_all([path for path in chosen if path.name not in kept], folder, assigned)
        first = pages.report(folder, [path.name for path in notebooks()], kept)
        if reference and not failures:
            _keep(reference, dataset, command)
        made = _signatures({name: of for name, of in asked.items() if name not in failures}, folder)
        paths.write(signed, json.dumps(before | made, indent=1))
    settings.refuse(failures, "; ".join(failures.values()), Failed)
    return first


def _asked(assigned: dict[Path, dict[str, Any]]) -> dict[str, str]:
    """By notebook, a hash of its source, its parameters, the files that they name, this code and its libraries."""
    code = _hashes(path for path in Path(__file__).parent.rglob("[!.]*.*") if path.suffix != ".pyc")
    libraries = sorted(found.name for folder in sys.path for found in Path(folder).glob("*.dist-info"))
    common, asked = [code, libraries, sys.version, str(runs.device())], {}
    for source, values in assigned.items():
        given = {name: str(value) for name, value in values.items() if name != "SCHEDULER"}
        asked[source.name] = settings.digest([common, given, _hashes([source, *map(Path, given.values())])])
    return asked


def _signatures(asked: dict[str, str], folder: Path) -> dict[str, str]:
    """By notebook, a hash of what it was asked for with, of what came of it, and of all data that it may have read."""
    files = [*paths.prepared(folder.name).rglob("[!.]*.*"), *reference.folder("").rglob("*.*")]
    data = _hashes([*files, *paths.runs().glob("*/*.json"), *paths.runs().glob("*/*.csv")])
    return {name: settings.digest([of, data, _hashes([folder / name])]) for name, of in asked.items()}


def _hashes(files: Iterable[Path]) -> list[tuple[str, str]]:
    """Name and SHA-256 of each that is a file; a text too long for a file's name is none."""
    there = [path for path in sorted(files) if os.path.isfile(path)]  # noqa: PTH113
    return [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in there]


def _execute_all(chosen: Sequence[Path], folder: Path, assigned: dict[Path, dict[str, Any]]) -> dict[str, str]:
    """Run these notebooks; returns how each failed that did, by its name.

    Without a GPU two run at once where there is room, each with half of the cores, since small networks train hardly
    faster on more: but 00 and 01 before the others, which need the dataset, and the last, the report, after them.
    """
    given = {name: value for values in assigned.values() for name, value in values.items()}  # as `check` has read them
    small, device = given.get("IMAGE_SIZE", 0) <= SMALL, runs.device(given.get("DEVICE", "auto"), elsewhere=True)
    share = processes.cores() // 2 if device.type == "cpu" else 0
    lanes = ThreadPoolExecutor(2 if share and small and machine.free(device) > ROOM else 1)
    ended = {}
    with _private(share) as start, tqdm(desc="notebooks", unit="notebook", total=len(chosen)) as bar:
        try:
            for _, together in groupby(chosen, lambda path: (path.name > "02") + (path == notebooks()[-1])):
                begun = {lanes.submit(_execute, path, folder, assigned[path], start): path for path in together}
                for execution in as_completed(begun):
                    ended[begun[execution].name] = execution.result()
                    bar.update()
        except BaseException:
            lanes.shutdown(wait=False, cancel_futures=True)
            paths.clear(folder)
            raise
    return {name: failure for name, failure in ended.items() if failure}


def _execute(source: Path, folder: Path, values: dict[str, Any], start: Callable) -> str:
    """Run one notebook; the executed copy takes its place only when it is complete, or to show where it failed.

    What the notebook writes to stderr, as when it waits for another process, is shown at once.
    """
    failure = ""
    with paths.whole(folder / source.name) as beside:
        try:
            kernel = start(source.name[:2])
            papermill.execute_notebook(source, beside, values, progress_bar=False, stderr_file=sys.stderr, **kernel)
        except PapermillExecutionError as error:
            said = next(iter(error.evalue.splitlines()), "")
            failure = f"{source.name} failed in cell {error.exec_count}: {error.ename}: {said}"
        except OSError:  # such as a full disk: the others would meet it too
            raise
        except Exception as error:
            time.sleep(1)  # if a signal has killed the kernel, this process ends meanwhile, and nothing was made
            dead = "its process was killed, as systems do when memory runs out"
            said = dead if isinstance(error, DeadKernelError) else " ".join(str(error).split())
            failure = f"{source.name} failed: {said}"
        notebook = nbformat.read(beside, as_version=4)
        notebook.metadata["pneumo_nb"] = {"failure": failure}
        _leave_out_places(notebook)
        nbformat.write(notebook, beside)
    return failure


def _leave_out_places(notebook: nbformat.NotebookNode) -> None:
    """Say no more where an executed notebook was made: it may be shown to others."""
    for name in ("input_path", "output_path"):
        notebook.metadata.papermill.pop(name)
    notebook.metadata.papermill.parameters.pop("SCHEDULER", None)
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("SCHEDULER = "))


@contextmanager
def _private(threads: int) -> Iterator[Callable[[str], dict[str, Any]]]:
    """How kernels are started: with this Python, whatever else is called python3, and in private.

    They are reached by socket files in a folder that only this user can open, not by TCP ports that the whole machine
    can. What they write for themselves goes there too: a home may not be there, or be full of somebody's settings. They
    calculate with so many `threads`, unless it is 0 or the user has said another number.
    """
    short = len(os.fsencode(tempfile.gettempdir())) <= paths.SOCKETS
    with tempfile.TemporaryDirectory(prefix="pneumo_nb-", dir=None if short else "/tmp") as folder:
        surroundings = {"IPYTHONDIR": folder, "JUPYTER_RUNTIME_DIR": folder}
        if not os.access(os.environ.get("HOME", ""), os.W_OK):
            surroundings["MPLCONFIGDIR"] = os.environ.get("MPLCONFIGDIR", folder)
        if threads:
            surroundings["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(threads))
        # not by ipykernel_launcher, which takes the working directory out of PYTHONPATH
        launch = [sys.executable, "-P", "-m", "ipykernel", "-f", "{connection_file}"]
        launch += ["--log-level=50", "--InteractiveShellApp.ignore_cwd=True"]  # for the latter see __main__
        spec = KernelSpec(argv=launch, env=surroundings, display_name="Python 3", language="python")
        kernel = type("Kernel", (AsyncKernelManager,), {"kernel_spec": spec})

        def start(number: str) -> dict[str, Any]:
            reached = {"transport": "ipc", "ip": f"{folder}/{number}", "connection_file": f"{folder}/{number}.json"}
            return {"kernel_manager_class": kernel, "config": Config({"KernelManager": reached})}

        logging.getLogger("papermill").setLevel(logging.CRITICAL)  # it warns of settings that no cell declares
        yield start


def _keep(name: str, dataset: str, command: str) -> None:
    """Add the runs on this dataset, and on those it has, to the reference `name`, with its tables and the commands."""
    from pneumo_nb.results import tables

    records = {key: record for key, (of, record) in reference.records().items() if of == name}
    of_each = {record["dataset"]["hash"] for record in records.values()}
    hashes = sorted(of_each | {paths.read_dataset(dataset)[1]["hash"]})
    mine = runs.finished(*hashes)
    records |= {run.key: run.record for run in mine}
    readme = reference.folder(name) / "README.md"
    told = readme.read_text().splitlines() if readme.is_file() else []
    commands = dict.fromkeys([line for line in told if line.startswith("    python")] + [f"    {command}"])
    trained = Counter(record["device"] for record in records.values())
    where = ", ".join(f"{count} on {device}" for device, count in sorted(trained.items()))
    hours = sum(record["seconds"] for record in records.values()) / 3600
    kept = f"Measured once and kept, without weights: {len(records)} runs ({where}), {hours:.1f} hours."
    how = "Made, and made again, in the project's folder by"
    text = "\n".join([f"# {name}", kept, how, "", *commands, "", "Results on a phantom are results on a phantom.", ""])
    found = {"tables": tables.on(*hashes), "claims": tables.claims(*hashes)} | _texture(name, hashes)
    reference.write(name, mine, text, **found)


def _texture(name: str, hashes: list[str]) -> dict[str, pd.DataFrame]:
    """What notebook 08 found on these datasets, last and for the reference; no table where it found nothing."""
    which = ["dataset", "hash", "image_size", "family", "classifier"]
    files = reference.folder(name) / "texture.csv", paths.report() / "texture.csv"
    frames = [pd.read_csv(file, dtype={"dataset": str}) for file in files if file.is_file()]
    found = pd.concat([pd.DataFrame(columns=which), *frames]).query("hash in @hashes")
    return {"texture": found.drop_duplicates(which, keep="last").sort_values(which)} if len(found) else {}
