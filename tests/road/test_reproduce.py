import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import nbformat
import pytest
import torch
import toy
from disks import filled
from nbformat import v4

from pneumo_nb import paths, reproduce, settings
from pneumo_nb.train import dataset, runs


def notebook(
    folder, name, *cells, parameters="DATASET = 'phantom'  # x\nEPOCHS = 1  # x\nRUN = ''  # x\nRATES = [0.5]  # x"
):
    first = v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    made = v4.new_notebook(
        cells=[v4.new_markdown_cell(f"# {name}"), first, *map(v4.new_code_cell, cells)], metadata=kernel
    )
    nbformat.write(made, folder / f"{name}.ipynb")


@pytest.fixture
def three(home, monkeypatch):
    """Three small notebooks in place of the project's; the second one fails at EPOCHS = 3."""
    folder = home / "notebooks"
    folder.mkdir()
    notebook(folder, "01_first", "print('first', EPOCHS)")
    notebook(folder, "02_second", "print('second')", "assert EPOCHS != 3, 'three epochs are wrong'")
    notebook(folder, "08_last", "print('last')", parameters="DATASET = 'phantom'  # x")
    monkeypatch.setattr(paths, "notebooks", lambda: folder)
    return home


def index(home):
    return (home / "outputs" / "report" / "index.html").read_text()


def executed(home, name, dataset="phantom"):
    return (home / "outputs" / "executed" / dataset / f"{name}.ipynb").read_text()


def test_notebooks_run_in_order_and_each_gets_a_page(three):
    first = reproduce.reproduce({"EPOCHS": 2})
    assert first == three / "outputs" / "report" / "index.html"
    assert "first 2" in executed(three, "01_first")
    names = sorted(page.name for page in first.parent.iterdir())
    assert names == ["01_first.html", "02_second.html", "08_last.html", "index.html"]
    assert first.read_text().index("01_first") < first.read_text().index("08_last")


def test_a_value_given_as_text_is_read_as_the_notebooks_own_is_meant(three):
    notebook(
        three / "notebooks", "03_third", "print(RATES, CONTROL, NAME)",
        parameters="RATES = [0.0]  # x\nCONTROL = True  # y\nNAME = ''  # z",
    )  # fmt: skip
    reproduce.reproduce({"RATES": "[0, 0.5]", "CONTROL": "false", "NAME": "2024"}, only=["03"])
    assert "[0, 0.5] False 2024" in executed(three, "03_third")
    assert 'NAME = \\"2024\\"' in executed(three, "03_third")


def test_only_some_notebooks_run_and_the_contents_forget_no_other_page_of_the_dataset(three):
    reproduce.reproduce({"EPOCHS": 2}, only=["01"])
    report = three / "outputs" / "report"
    (report / "03_of_another_dataset.html").touch()
    reproduce.reproduce({}, only=["08"])
    assert sorted(page.name for page in report.iterdir()) == ["01_first.html", "08_last.html", "index.html"]
    assert "EPOCHS = 2" in index(three) and "as it stands" in index(three) and "02_second" not in index(three)
    made = (report / "01_first.html").stat().st_mtime_ns
    reproduce.reproduce({}, only=["08"])
    assert (report / "01_first.html").stat().st_mtime_ns == made  # a page that would be the same is left alone


def test_a_setting_reaches_the_notebooks_that_train_though_none_declares_it(three, capfd):
    notebook(three / "notebooks", "02_second", "print(GROWTH_RATE, DROP_RATE, QUALITY, IN_MEMORY_MIB)")
    notebook(three / "notebooks", "08_last", "print('GROWTH_RATE' in globals())", parameters="DATASET = 'phantom'  # x")
    given = {"GROWTH_RATE": "1", "DROP_RATE": "25e-2", "QUALITY": "8", "IN_MEMORY_MIB": "100"}
    reproduce.reproduce(given, only=["02", "08"])
    assert "1 0.25 8 100.0" in executed(three, "02_second") and "False" in executed(three, "08_last")
    assert "unknown parameter" not in capfd.readouterr().err


def test_what_nothing_has_changed_of_stays_as_it_was_executed_and_says_so(three, capsys):
    reproduce.reproduce({"EPOCHS": 2})
    before = [executed(three, name) for name in ("01_first", "02_second", "08_last")]
    assert "as before" not in index(three) + capsys.readouterr().err
    reproduce.reproduce({"EPOCHS": 2})
    after = [executed(three, name) for name in ("01_first", "02_second", "08_last")]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False]  # the report is run
    assert index(three).count(" s, as before</td>") == 2
    assert "as before, since nothing has changed: 01, 02 (--only runs any of them anew)\n" in capsys.readouterr().err
    reproduce.reproduce({"EPOCHS": 2}, only=["01"])
    assert executed(three, "01_first") != before[0] and "as before" not in index(three)


@pytest.fixture
def run(three, monkeypatch):
    """Ask for a report on the dataset `phantom`; returns the numbers of the notebooks that are run, without kernels."""
    toy.prepared("phantom")
    (three / "code").mkdir()
    monkeypatch.setattr(reproduce, "__file__", str(three / "code" / "reproduce.py"))
    ran = []

    def execute(source, folder, values, kernel):
        ran.append(source.name[:2])
        with paths.whole(folder / source.name) as copy:
            copy.write_bytes(source.read_bytes())
        return "it failed" if values.get("EPOCHS") == 3 and "second" in source.name else ""

    def report(**values):
        ran.clear()
        with suppress(reproduce.Failed):
            reproduce.reproduce(values)
        return ran

    monkeypatch.setattr(reproduce, "_execute", execute)
    return report


CHANGES = {
    "a notebook": ("notebooks/01_first.ipynb", ["01", "02", "08"]),
    "a later notebook": ("notebooks/02_second.ipynb", ["02", "08"]),
    "what was executed": ("outputs/executed/phantom/02_second.ipynb", ["02", "08"]),
    "the code": ("code/train/loop.py", ["01", "02", "08"]),
    "an image": ("data/prepared/phantom/images/r3.png", ["01", "02", "08"]),
    "runs": ("outputs/runs/0123/record.json", ["01", "02", "08"]),
    "a reference": ("outputs/reference/study/records.json", ["01", "02", "08"]),
    "a file that a parameter names": ("start.safetensors", ["01", "02", "08"]),
    "a page": ("outputs/report/02_second.html", ["08"]),
    "a dataset that is not read": ("data/prepared/nih/images/r3.png", ["08"]),
}


@pytest.mark.parametrize(("file", "again"), CHANGES.values(), ids=CHANGES)
def test_a_changed_file_has_all_executed_that_may_have_read_it_and_all_after_it(three, run, file, again):
    weights = {"INITIAL_WEIGHTS": str(three / "start.safetensors")}
    for name in {file, "start.safetensors"} - {str(path.relative_to(three)) for path in three.rglob("*.*")}:
        (three / name).parent.mkdir(parents=True, exist_ok=True)
        (three / name).write_text("[]")
    assert run(**weights) == ["01", "02", "08"] and run(**weights) == ["08"]
    changed = bytearray((three / file).read_bytes())
    changed[-1:] = b" " + changed[-1:]  # JSON stays JSON
    (three / file).write_bytes(changed)
    assert run(**weights) == again and run(**weights) == ["08"]


def test_other_parameters_libraries_or_an_edit_meanwhile_have_notebooks_executed_again(three, run, monkeypatch):
    everything = ["01", "02", "08"]
    assert run(EPOCHS=2) == everything and run(EPOCHS=4) == everything and run(EPOCHS="4") == ["08"]
    (three / "numpy-99.9.dist-info").mkdir()
    monkeypatch.syspath_prepend(three)
    assert run(EPOCHS=4) == everything and run(EPOCHS=4) == ["08"]
    first, execute = three / "notebooks" / "01_first.ipynb", reproduce._execute

    def edited(*given):
        failure = execute(*given)
        first.write_text(first.read_text().replace("first", "FIRST"))
        return failure

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(reproduce, "_execute", edited)
        assert run(EPOCHS=5) == everything
    assert run(EPOCHS=5) == everything


def test_what_failed_is_executed_again_and_what_came_before_it_is_not(run):
    assert run(EPOCHS=3) == ["01", "02", "08"]
    assert run(EPOCHS=3) == ["02", "08"]


def test_kernels_are_of_this_python_whatever_the_surroundings(three, monkeypatch, capfd):
    """Another python3, a home that is not there, a long TMPDIR, a folder here that bears a module's name."""
    alien = three / "jupyter" / "kernels" / "python3" / "kernel.json"
    alien.parent.mkdir(parents=True)
    alien.write_text(
        '{"argv": ["/nowhere/python", "-f", "{connection_file}"], "display_name": "x", "language": "python"}'
    )
    long = three / ("long" * 20)
    (three / "here" / "yaml").mkdir(parents=True)
    (three / "here" / "yaml" / "__init__.py").write_text("raise SystemExit('not this yaml')")
    long.mkdir()
    for name, value in {"JUPYTER_PATH": alien.parents[2], "HOME": "/proc/nowhere", "TMPDIR": long}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(three / "here")
    notebook(three / "notebooks", "02_second", "import sys, yaml, matplotlib.pyplot; print(sys.executable)")
    reproduce.reproduce({}, only=["02"])
    assert sys.executable in executed(three, "02_second") and not list(long.iterdir())
    assert "not a writable directory" not in capfd.readouterr().err


def test_kernels_run_the_code_of_the_checkout_that_started_them(three, monkeypatch):
    """As `__main__` says by PYTHONPATH; ipykernel's own launcher takes the working directory out of it."""
    (three / "of_this_checkout.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(three))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    monkeypatch.chdir(three)
    notebook(three / "notebooks", "02_second", "import of_this_checkout; print(of_this_checkout.__file__)")
    reproduce.reproduce({}, only=["02"])
    assert str(three / "of_this_checkout.py") in executed(three, "02_second")


def test_a_kernel_that_cannot_start_is_one_line(three, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(reproduce.Failed, match=r"^08_last.ipynb failed: Kernel died before replying[^\n]*$"):
        reproduce.reproduce({}, only=["08"])
    assert "Kernel died" in index(three)


@pytest.mark.parametrize("name", ["0777", "20210930", "2021_09", "1e3", "2021-09-30"])
def test_a_dataset_may_have_a_name_that_looks_like_a_number(three, name):
    file = three / "some.yaml"
    file.write_text(f"DATASET: {name}\nEPOCHS: 3\nRATES: [0, 1.5]\n")
    values = reproduce.parameters(file, {})
    assert values == {"DATASET": name, "EPOCHS": "3", "RATES": [0, 1.5]}
    toy.prepared(name)
    (given,) = reproduce.check(reproduce.notebooks(["01"]), {"DATASET": name, "EPOCHS": "3"}).values()
    assert given == {"DATASET": name, "EPOCHS": 3}


def test_a_reference_is_kept_with_the_command_that_makes_it_again(three):
    reference = pytest.importorskip("pneumo_nb.train.reference")
    base = settings.TrainSettings.of(
        model="densenet", depth=7, blocks=2, bottleneck=False, growth_rate=4, image_size=32, epochs=1, batch_size=8
    )
    data = dataset.load(toy.prepared("kept"), base)
    runs.load_or_train(base, data, torch.device("cpu"), progress=False)
    paths.report().mkdir(parents=True)
    rows = "dataset,hash,image_size,family,classifier,on the testing set\n{}"
    for auc in ("0.7", "0.8"):  # the second time as a change of the first
        (paths.report() / "texture.csv").write_text(
            rows.format(f"kept,{data.hash},32,all,SVM,{auc}\nkept,of another time,32,all,SVM,0.5\n")
        )
        reproduce.reproduce({"DATASET": "kept"}, ["08"], reference="mine", command="python -m pneumo_nb reproduce")
    kept = (reference.folder("mine") / "texture.csv").read_text()
    assert kept == rows.format(f"kept,{data.hash},32,all,SVM,0.8\n")
    assert {"tables.csv", "claims.csv", "README.md"} <= {file.name for file in reference.folder("mine").iterdir()}
    assert "    python -m pneumo_nb reproduce\n" in (reference.folder("mine") / "README.md").read_text()


def test_a_failure_names_notebook_and_cell_and_keeps_the_rest(three):
    with pytest.raises(
        reproduce.Failed, match=r"02_second.ipynb failed in cell 4: AssertionError: three epochs are wrong"
    ):
        reproduce.reproduce({"EPOCHS": 3})
    assert "first 3" in executed(three, "01_first") and "last" in executed(three, "08_last")
    index = (three / "outputs" / "report" / "index.html").read_text()
    assert "three epochs are wrong" in index and "three epochs are wrong" in executed(three, "02_second")


def test_a_notebook_whose_process_is_killed_is_named_and_the_others_run(three):
    notebook(three / "notebooks", "02_second", "import os, signal", "os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(reproduce.Failed, match=r"^02_second.ipynb failed: its process was killed, as systems do when"):
        reproduce.reproduce({})
    assert "last" in executed(three, "08_last")
    assert "its process was killed" in (three / "outputs" / "report" / "index.html").read_text()


def test_an_error_without_words_is_named_and_stderr_is_shown_at_once(three, capsys):
    notebook(three / "notebooks", "02_second", "import sys; print('look', file=sys.stderr)", "assert False")
    with pytest.raises(reproduce.Failed, match=r"^02_second.ipynb failed in cell 3: AssertionError: $"):
        reproduce.reproduce({}, only=["02"])
    assert "look\n" in capsys.readouterr().err


def test_a_second_report_at_once_says_that_it_waits_and_tidies_up_after_a_killed_one(three, capsys):
    left = three / "outputs" / "report" / ".index.0000.part.html"
    left.parent.mkdir(parents=True)
    left.touch()
    lock = three / "outputs" / ".report.lock"
    with ThreadPoolExecutor() as beside:
        with paths.alone(lock, "this test"):
            asked = beside.submit(reproduce.reproduce, {}, ["01"])
            while "another process is busy with the report: waiting" not in capsys.readouterr().err:
                assert not asked.done()
            assert not (three / "outputs" / "executed").exists()
        assert asked.result(60).is_file()
    assert not left.exists()


def test_a_full_disk_is_named_and_the_report_is_whole_once_there_is_room(three, small_disk, monkeypatch):
    monkeypatch.setenv("PNEUMO_NB_HOME", str(small_disk))
    with filled(small_disk, but=4096), pytest.raises(OSError, match=r"cannot be written: No space left on device$"):
        reproduce.reproduce({}, only=["01"])
    first = reproduce.reproduce({}, only=["01"])
    left = {path.name for path in small_disk.rglob("*") if path.is_file()}
    assert left == {".report.lock", "signatures.json", "01_first.ipynb", "01_first.html", "index.html"}
    assert first.is_file()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"EPOHCS": 2}, r"no parameter EPOHCS: did you mean EPOCHS\?"),
        ({"Epochs": 2}, r"no parameter Epochs: they are in capitals, such as EPOCHS"),
        ({"BITS": "12"}, r"bits = '12'"),
        ({"EPOCHS": "many"}, r"epochs = 'many'"),
        ({"IN_MEMORY_MIB": "-1"}, r"in_memory_mib = '-1': input should be greater than or equal to 0"),
        ({"RATES": "[1,"}, r"RATES = '\[1,' cannot be read: a value such as \[0.5\] is right"),
        ({"DATASET": "nih"}, r"no prepared dataset 'nih'"),
        ({"DATASET": 0o777}, r"DATASET = 511 is a number: write the name in quotes"),
        ({"RUN": "0123"}, r"no finished run '0123' in outputs/runs"),
    ],
)
def test_wrong_names_and_values_are_refused_before_work_starts(three, values, message):
    with pytest.raises(ValueError, match=message):
        reproduce.reproduce(values)
    assert not (three / "outputs").exists()


def test_what_the_device_cannot_do_is_refused_before_work_starts(three):
    parameters = "DEVICE = 'auto'  # x\nPRECISION = 'float32'  # y"
    notebook(three / "notebooks", "03_third", "print(PRECISION)", parameters=parameters)
    with pytest.raises(ValueError, match=r"precision = 'tf32'"):
        reproduce.reproduce({"PRECISION": "tf32", "DEVICE": "cpu"})
    assert not (three / "outputs").exists()


def test_a_dataset_that_cannot_be_trained_on_is_refused_before_work_starts(three):
    dataset = paths.prepared(toy.prepared("unlabelled")) / "dataset.json"
    dataset.write_text(dataset.read_text().replace('"test": {"0": 1, "1": 1}', '"none": {"": 8}'))
    with pytest.raises(ValueError, match="'unlabelled' has not both classes in its test part"):
        reproduce.reproduce({"DATASET": "unlabelled"})
    assert not (three / "outputs").exists()


def test_a_wrong_number_is_refused(three):
    with pytest.raises(ValueError, match="no notebook 03; there is 01, 02, 08"):
        reproduce.notebooks(["03"])


def test_another_dataset_has_executed_notebooks_of_its_own(three):
    toy.prepared("nih")
    reproduce.reproduce({"DATASET": "nih"}, only=["01"])
    assert "first 1" in executed(three, "01_first", "nih")


def test_parameters_come_from_a_file_and_are_overruled_one_by_one(tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text("EPOCHS: 40\nLEARNING_RATE: 5e-5\n")
    assert reproduce.parameters(file, {"EPOCHS": "2"}) == {"EPOCHS": "2", "LEARNING_RATE": "5e-5"}


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [", "just text", ""])
def test_a_parameter_file_that_holds_none_is_refused(tmp_path, content):
    file = tmp_path / "some.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match="NAME: value"):
        reproduce.parameters(file, {})
    with pytest.raises(OSError, match=r"none.yaml"):
        reproduce.parameters(tmp_path / "none.yaml", {})
