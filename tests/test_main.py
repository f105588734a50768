"""The command line as a user meets it: exit codes, and one line for each mistake."""

import subprocess
import sys

import pytest
import toy

from pneumo_nb import __main__ as command_line
from pneumo_nb import paths


def said(capsys, *arguments):
    code = command_line.main([str(argument) for argument in arguments])
    return code, capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("reproduce", "--dataset", "nih"), "no prepared dataset 'nih'"),
        (("reproduce", "-p", "EPOHCS", "2"), "no parameter EPOHCS; the parameters are"),
        (("reproduce", "-p", "EPOCHS", "many"), "epochs = 'many'"),
        (("reproduce", "-p", "PATIENTS", "3"), "patients = 3"),
        (("reproduce", "-p", "POSITIVES", "500"), "positives"),
        (("reproduce", "-p", "LOSS", "balanced"), "eq7_literal"),
        (("reproduce", "--seeds", "0,x"), "seeds = '0,x'"),
        (("reproduce", "--only", "99"), "no notebook 99"),
        (("reproduce", "--params", "nowhere.yaml"), "no parameter file nowhere.yaml"),
        (("prepare", "nowhere", "--name", "x"), "nowhere': SOURCE must be a folder"),
        (("prepare", ".", "--name", "../x"), "'../x'"),
        (("prepare", ".", "--name", "x", "--set", "equalise"), "FIELD=VALUE"),
        (("prepare", ".", "--name", "x", "--set", "equalize=none"), "'equalize'"),
        (("prepare", ".", "--name", "x", "--set", "downsize=0"), "downsize = '0'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_refused_in_one_line_before_work_starts(home, capsys, arguments, message):
    code, captured = said(capsys, *arguments)
    assert code == 2 and message in captured.err
    assert captured.err.startswith("pneumo_nb: ") and captured.err.count("\n") == 1
    assert not (home / "outputs").exists() and not list((home / "data").glob("*/*"))


def test_a_device_that_is_not_there_is_refused(home, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, captured = said(capsys, "reproduce", "--device", "cuda")
    assert code == 2 and "no GPU" in captured.err


def test_an_unknown_option_is_refused_by_name(capsys):
    with pytest.raises(SystemExit) as stopped:
        command_line.main(["reproduce", "--epochs", "3"])
    assert stopped.value.code == 2 and "--epochs" in capsys.readouterr().err


def test_stopping_says_how_to_go_on(home, capsys, monkeypatch):
    toy.prepared("nih")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pneumo_nb.reproduce.reproduce", stop)
    code, captured = said(capsys, "reproduce", "--dataset", "nih")
    assert code == 130 and "the same command goes on" in captured.err


def test_the_command_line_and_the_picture_wing_start_without_torch():
    heavy = (
        "import sys, pneumo_nb.__main__, pneumo_nb.prepare; print(sorted({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, cwd=paths.notebooks())
    assert found.stdout.strip() == "[]", found.stderr
