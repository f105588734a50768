"""The command line as a user meets it: exit codes, and one line for each mistake."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import sources
import toy
from sources import folder_of_pictures
from test_reproduce import notebook

from pneumo_nb import __main__ as command_line
from pneumo_nb import paths, reproduce


def said(capsys, *arguments):
    code = command_line.main([str(argument) for argument in arguments])
    return code, capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("reproduce", "--dataset", "nih"), "no prepared dataset 'nih'"),
        (("reproduce", "-p", "EPOHCS", "2"), "no parameter EPOHCS: did you mean EPOCHS?"),
        (("reproduce", "-p", "EPOCHS", "many"), "epochs = 'many'"),
        (("reproduce", "-p", "PATIENTS", "3"), "patients = '3'"),
        (("reproduce", "-p", "POSITIVES", "5000"), "positives"),
        (("reproduce", "-p", "LOSS", "balanced"), "eq7_literal"),
        (("reproduce", "--seeds", "0,x"), "seeds = '0,x'"),
        (("reproduce", "--only", "99"), "no notebook 99"),
        (("reproduce", "--only", ","), "--only ',': numbers of notebooks, such as 02,12, are right"),
        (("reproduce", "--dataset", "phantom/../x"), "'phantom/../x' cannot name a dataset"),
        (("reproduce", "-p", "RUN", "../runs/0123456789abcdef"), "no finished run '../runs/0123456789abcdef'"),
        (("reproduce", "--jobs", "100000"), "--jobs = 100000: 1 to"),
        (("reproduce", "--reference", "../x"), "small letters"),
        (("reproduce", "--params", "nowhere.yaml"), "No such file or directory: 'nowhere.yaml'"),
        (("prepare", "nowhere", "--name", "x"), "nowhere': SOURCE must be a folder"),
        (("prepare", ".", "--name", "../x"), "'../x'"),
        (("prepare", ".", "--name", "x", "--set", "equalise"), "equalise = ''"),
        (("prepare", ".", "--name", "x", "--set", "equalize=none"), "'equalize'"),
        (("prepare", ".", "--name", "x", "--set", "downsize=0"), "downsize = '0'"),
        (("prepare", ".", "--name", "x", "--set", "burned_in=drop"), "burned_in = 'drop'"),
        (("prepare", ".", "--name", "x", "--layout", "mnist"), "no layout 'mnist'"),
        (("prepare", ".", "--name", "x", "--layout", "nih"), "needs --positive"),
        (("prepare", ".", "--name", "x", "--layout", "nih", "--positive", "Mass"), "needs its label file"),
        (("prepare", ".", "--name", "x", "--layout", "classes", "--labels", "a.csv"), "leave --labels or --layout out"),
        (("prepare", ".", "--name", "x", "--columns", "file"), "--columns needs pairs"),
        (("prepare", "."), "--name NAME for the dataset, or --check"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_refused_in_one_line_before_work_starts(home, capsys, arguments, message):
    code, captured = said(capsys, *arguments)
    assert code == 2 and message in captured.err
    assert captured.err.startswith("pneumo_nb: ") and captured.err.count("\n") == 1
    assert not (home / "outputs").exists() and not list((home / "data").glob("*/*"))


def test_the_command_that_a_reference_keeps_tells_no_folder_of_its_user(home, capsys, monkeypatch):
    told = []
    monkeypatch.setattr(reproduce, "reproduce", lambda *given: told.append(given[-1]))
    for folder in (home / "notebooks", home.parent / "smith"):
        folder.mkdir()
        (folder / "own.yaml").write_text("EPOCHS: 2")
        arguments = ["reproduce", "--params", str(folder / "own.yaml"), "--reference", "mine"]
        monkeypatch.setattr(sys, "argv", ["__main__.py", *arguments])
        assert said(capsys, *arguments)[0] == 0
    start, end = "python -m pneumo_nb reproduce --params", "own.yaml --reference mine"
    assert told == [f"{start} notebooks/{end}", f"{start} {end}"]


def test_checking_a_folder_of_classes_and_then_preparing_it(home, capsys, tmp_path):
    for number in range(20):
        name = f"{'Silicosis' if number % 2 else 'healthy'}/{number}.png"
        sources.save_picture(tmp_path / "source" / name, sources.picture(number))
    command = (
        "prepare",
        tmp_path / "source",
        "--layout",
        "classes",
        "--positive",
        "silicosis",
        "--set",
        "burned_in=ignore",
    )
    code, captured = said(capsys, *command, "--check")
    assert code == 0 and "20 files found: 20 accepted" in captured.out and "nothing was written" in captured.out
    assert not (home / "data").exists() and not (home / "pseudonym.key").exists()
    code, prepared = said(capsys, *command, "--name", "x")
    assert code == 0 and captured.out.startswith(prepared.out)
    assert len(list((home / "data" / "prepared" / "x" / "images").iterdir())) == 20


def test_a_device_that_is_not_there_is_refused(home, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, captured = said(capsys, "reproduce", "--device", "cuda")
    assert code == 2 and "no GPU" in captured.err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RuntimeError("two\nlines"), 1, "RuntimeError: two lines (python -X dev -m pneumo_nb ... shows where)"),
        (KeyError("x"), 1, "KeyError: 'x' (python -X dev -m pneumo_nb ... shows where)"),
        (OSError("one\nline"), 2, "one line"),
    ],
)
def test_whatever_goes_wrong_is_one_line(home, capsys, monkeypatch, error, code, said):
    def fail(*_):
        raise error

    monkeypatch.setattr("pneumo_nb.reproduce.reproduce", fail)
    assert command_line.main(["reproduce"]) == code and capsys.readouterr().err == f"pneumo_nb: {said}\n"


def test_an_unknown_option_is_refused_by_name(capsys):
    with pytest.raises(SystemExit) as stopped:
        command_line.main(["reproduce", "--epochs", "3"])
    assert stopped.value.code == 2 and "--epochs" in capsys.readouterr().err


COMMAND = """
import runpy, signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
from pathlib import Path
from pneumo_nb import paths
paths.notebooks = lambda: Path("notebooks").resolve()
runpy.run_module("pneumo_nb", run_name="__main__")
"""  # the command line, on notebooks of the working directory
BUSY = """
from pathlib import Path
Path("busy").touch()
while True:
    pass
"""
TRAINING = """
from pathlib import Path
from pneumo_nb import settings
from pneumo_nb.train import dataset, runs, sweep
small = {"model": "densenet", "depth": 7, "blocks": 2, "bottleneck": False, "growth_rate": 4}
base = settings.TrainSettings.of(image_size=32, epochs=100_000, **small)
data = dataset.load("toy", base)
sweep.train_columns({"": base}, [0, 1], data, runs.device("cpu"), SCHEDULER)
"""


def started(home, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=home, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def stopped(command, number, sign):
    """Send a signal once there is a sign that work has begun; seconds until the end, what was said, exit code."""
    while not sign():
        assert command.poll() is None, command.stderr.read()
        time.sleep(0.005)
    sent = time.monotonic()
    command.send_signal(number)
    _, said = command.communicate(timeout=60)
    return time.monotonic() - sent, said, command.returncode


def survivors(home):
    """Processes that a command with this project folder has left behind."""
    left = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("PNEUMO_NB_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        if mine and process.pid != os.getpid():
            left.append(process.cmdline())
    return left


GO_ON = "pneumo_nb: stopped; the same command goes on from here\n"


def test_stopped_while_preparing_it_ends_its_workers_and_goes_on_when_asked_again(home):
    source = folder_of_pictures(home / "source", 300, 300)
    command = ("prepare", source, "--name", "x", "--workers", 2)

    def some_images():
        return list(paths.prepared().glob(".x.*.part/images/*"))

    seconds, said, code = stopped(started(home, *command), signal.SIGTERM, some_images)
    assert seconds < 3 and code == 143 and said.count(GO_ON) == 1 and "Traceback" not in said
    assert not survivors(home) and not paths.prepared("x").exists()
    again = started(home, *command)
    out, _ = again.communicate(timeout=120)
    assert again.returncode == 0 and "600 accepted" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_stopped_in_the_middle_of_a_notebook_it_ends_the_kernel(home, number):
    (home / "notebooks").mkdir()
    notebook(home / "notebooks", "01_busy", BUSY)
    seconds, said, code = stopped(started(home, "reproduce"), number, (home / "busy").exists)
    assert seconds < 3 and code == 128 + number and said.count(GO_ON) == 1 and "Traceback" not in said
    assert not survivors(home) and not list((home / "outputs" / "executed").glob("*/*"))


def test_stopped_while_processes_train_it_ends_them_all(home, monkeypatch):
    """On a cluster of its own, which a site's configuration of Dask does not reach."""
    (home / "notebooks").mkdir()
    (home / "dask").mkdir()
    (home / "dask" / "site.yaml").write_text("distributed:\n  worker:\n    preload: [not_a_module]\n")
    monkeypatch.setenv("DASK_CONFIG", str(home / "dask"))
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION", "True")
    toy.prepared()
    notebook(home / "notebooks", "02_training", TRAINING, parameters="DATASET = 'phantom'  # x\nSCHEDULER = ''  # y")

    def both_train():
        return len(list(paths.runs().glob("*/checkpoint.pt"))) == 2

    seconds, said, code = stopped(started(home, "reproduce", "--jobs", 2), signal.SIGTERM, both_train)
    assert seconds < 3 and code == 143 and said.count(GO_ON) == 1 and "Traceback" not in said
    assert not survivors(home)


def test_folders_here_that_bear_modules_names_an_ascii_terminal_and_a_long_tmpdir_change_nothing(home):
    source = folder_of_pictures(home / "s\N{LATIN SMALL LETTER O WITH DIAERESIS}urce")
    for name in ("dl", "cv2", "numpy", "signal"):
        (home / name).mkdir()
        (home / name / "__init__.py").write_text("raise SystemExit('not this one')")
    long = home / ("long" * 20)
    long.mkdir()
    surroundings = {"PYTHONIOENCODING": "ascii", "TMPDIR": str(long), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "pneumo_nb", "prepare", source, "--name", "x", "--workers", "2"]
    done = subprocess.run(command, cwd=home, env=os.environ | surroundings, capture_output=True, text=True)
    assert done.returncode == 0 and "20 accepted" in done.stdout, done.stderr


def test_the_command_line_and_the_picture_wing_start_without_torch():
    heavy = (
        "import sys, pneumo_nb.__main__, pneumo_nb.prepare; print(sorted({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, cwd=paths.notebooks())
    assert found.stdout.strip() == "[]", found.stderr
