"""The command line: `python -m pneumo_nb prepare ...`, `reproduce ...` and `read ...`."""

import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path:  # else a folder `dl` or a file `numpy.py` here would be imported
    sys.path.pop(0)
    found = os.environ.get("PYTHONPATH"), __file__.removesuffix("/pneumo_nb/__main__.py")
    os.environ |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, found))}  # for all that is started

import _thread
import argparse
import shlex
import signal
import time
from contextlib import suppress
from pathlib import Path

from pneumo_nb import paths

SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP  # Ctrl-C, what a cluster sends, a terminal that goes away
GRACE = 0.5  # seconds in which a stopped command may tidy up


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 if all that was asked for was done, 2 if it was refused, 1 if it failed.

    Stopped by a signal it leaves within a second, with 128 and its number, and no process that it started survives.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.command(options) or 0
    except SystemExit as stopped:
        os._exit(stopped.code)  # all is tidy; Python's own farewell to so many modules takes seconds
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        said, refused = " ".join(str(error).split()), isinstance(error, ValueError | OSError | MemoryError)
        if not refused:
            said = f"{type(error).__name__}: {said} (python -X dev -m pneumo_nb ... shows where)"
        print(f"pneumo_nb: {said}", file=sys.stderr)
        return 2 if refused else 1


def _stop(number: int, _frame: object) -> None:
    """Answer a signal: say how to go on, end what was started, and make sure that tidying up takes no longer."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    _thread.start_new_thread(_leave, (128 + number,))  # unlike threading it takes no lock that the main thread may hold
    with suppress(OSError):  # the terminal is gone
        os.write(sys.stderr.fileno(), b"\npneumo_nb: stopped; the same command goes on from here\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # other threads' despair at what ends now
    _end_started()
    raise SystemExit(128 + number)


def _leave(code: int) -> None:
    time.sleep(GRACE)
    _end_started()
    os._exit(code)


def _end_started() -> None:
    """Kill the kernel, the workers and all that these have started: what is half done does not bear its name yet."""
    import psutil

    for started in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it is gone already
            if "resource_tracker" not in " ".join(started.cmdline()):  # it cleans up after this process, and then ends
                started.kill()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pneumo_nb", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    prepare = commands.add_parser("prepare", help="a folder of radiographs -> a prepared dataset")
    prepare.add_argument("source", type=Path, help="folder of DICOM, JPG or PNG files")
    prepare.add_argument("--labels", type=Path, help="CSV with the columns file,label[,patient_id,stage,split,...]")
    prepare.add_argument("--name", help="of the prepared dataset: letters, digits, - and _")
    prepare.add_argument("--check", action="store_true", help="say what would happen, and write nothing")
    prepare.add_argument("--layout", default="", help="of the labels: classes (folders), nih, padchest, silicodata")
    prepare.add_argument("--columns", default="", metavar="OURS=THEIRS,...", help="such as file=Path,label=Dx")
    prepare.add_argument("--positive", default="", metavar="CLASS,...", help="classes of label 1")
    prepare.add_argument("--negative", default="", metavar="CLASS,...", help="classes of label 0; others by default")
    prepare.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="any preparing setting")
    prepare.add_argument("--workers", type=int, help="processes; all cores by default")
    prepare.set_defaults(command=_prepare)

    reproduce = commands.add_parser("reproduce", help="run the notebooks and write outputs/report")
    reproduce.add_argument("--dataset", dest="DATASET", help="a prepared dataset; the phantom by default")
    reproduce.add_argument("--params", type=Path, help="YAML file of notebook parameters")
    reproduce.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="one parameter")
    reproduce.add_argument("--only", default="", help="numbers of notebooks, such as 02,12")
    reproduce.add_argument("--seeds", dest="SEEDS", help="training seeds, such as 0,1,2")
    reproduce.add_argument("--device", dest="DEVICE", choices=("auto", "cpu", "cuda"))
    reproduce.add_argument("--jobs", type=int, default=1, metavar="N", help="train N runs at once on this machine")
    reproduce.add_argument("--reference", default="", metavar="NAME", help="keep the runs in outputs/reference/NAME")
    reproduce.add_argument("--scheduler", dest="SCHEDULER", metavar="ADDRESS", help="of a Dask cluster for the runs")
    reproduce.set_defaults(command=_reproduce)

    read = commands.add_parser("read", help="one new radiograph, or a folder of them, -> what a run makes of it")
    read.add_argument("source", type=Path, metavar="FILE", help="DICOM, JPG or PNG; of a folder a CSV is printed")
    read.add_argument("--run", required=True, metavar="KEY", help="a folder of outputs/runs")
    read.add_argument("--page", action="store_true", help="write a page with the film and its maps: outputs/readings")
    read.set_defaults(command=_read)
    return parser


def _prepare(options: argparse.Namespace) -> None:
    from pneumo_nb import prepare
    from pneumo_nb.settings import PrepareSettings, refuse

    settings = PrepareSettings.of(**dict(text.partition("=")[::2] for text in options.set))
    texts = (options.layout, options.columns, options.positive, options.negative)
    more = {"workers": options.workers, "layout": prepare.layout(*texts)}
    if options.check:
        print(prepare.summary(prepare.check(options.source, options.labels, settings, **more)))
        print("this is what would be; nothing was written")
        return
    refuse(not options.name, "prepare needs --name NAME for the dataset, or --check to write nothing")
    prepare.prepare(options.source, options.labels, options.name, settings, **more)
    print(prepare.summary(prepare.read_dataset(options.name)[1]))


def _reproduce(options: argparse.Namespace) -> int | None:
    from pneumo_nb import reproduce
    from pneumo_nb.settings import refuse

    named = {name: value for name, value in vars(options).items() if name.isupper() and value is not None}
    values = reproduce.parameters(options.params, dict(options.p) | named)
    only = [number.strip().zfill(2) for number in options.only.split(",") if number.strip()]
    refuse(options.only and not only, f"--only {options.only!r}: numbers of notebooks, such as 02,12, are right")
    command = shlex.join(["python", "-m", "pneumo_nb", *sys.argv[1:]]).replace(f"{paths.root()}/", "")
    if options.params and options.params.is_absolute():  # whose folder may tell a name
        command = command.replace(f"{options.params.parent}/", "")
    try:
        print(f"report: {reproduce.reproduce(values, only, options.jobs, options.reference, command)}")
    except reproduce.Failed as failure:
        print(f"pneumo_nb: {failure}", file=sys.stderr)
        return 1


def _read(options: argparse.Namespace) -> None:
    from pneumo_nb.beyond import reader

    print(reader.answer(options.source, options.run, options.page), end="")


if __name__ == "__main__":
    if len(os.fsencode(os.environ.get("TMPDIR", ""))) > paths.SOCKETS and os.access("/tmp", os.W_OK):
        os.environ["TMPDIR"] = "/tmp"  # here and in all that is started
    if sys.stdout:
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does: a path or a reason may not fit into ASCII
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP:  # as nohup asks
            signal.signal(number, _stop)
    sys.exit(main())
