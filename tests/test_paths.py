import errno
import os
import shutil
import subprocess

import pytest
from disks import read_only

from pneumo_nb import paths
from pneumo_nb.prepare import pseudonyms


def test_folders_follow_the_environment_not_the_working_directory(home, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert paths.prepared("nih") == home / "data" / "prepared" / "nih"
    assert paths.runs("k") == home / "outputs" / "runs" / "k"
    assert paths.pseudonym_secret().parent == home


def test_without_the_variable_the_root_is_the_checkout(monkeypatch):
    monkeypatch.delenv("PNEUMO_NB_HOME", raising=False)
    assert (paths.root() / "pyproject.toml").is_file()
    assert paths.notebooks() == paths.root() / "notebooks"


@pytest.mark.parametrize(
    ("given", "found"),
    [("~/x", "{}/x"), ("rel", "'rel': an absolute"), ("~nobody-here/x", "an absolute"), ("/tmp/\udcff", "UTF-8")],
)
def test_the_variable_means_one_place_or_is_refused(tmp_path, monkeypatch, given, found):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PNEUMO_NB_HOME", given)
    if found.startswith("{}"):
        assert str(paths.root()) == found.format(tmp_path)
    else:
        with pytest.raises(ValueError, match=found):
            paths.root()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_the_file_system_has_no_locks_nobody_holds_one(home, monkeypatch, number):
    def flock(*_):
        raise OSError(number, "simulated")

    monkeypatch.setattr("fcntl.flock", flock)
    for _ in range(2):  # nor does what the first leaves stand in the way of the second
        told = pytest.raises(OSError, match=r"^outputs/.x.lock cannot be locked: .*no locks.*PNEUMO_NB_HOME")
        with told, paths.alone(home / "outputs" / ".x.lock", "the work"):
            raise AssertionError("held without a lock")


def test_a_file_takes_its_name_only_when_whole(tmp_path):
    target = tmp_path / "deep" / "file.csv"
    with pytest.raises(RuntimeError, match="in the middle"), paths.whole(target) as beside:
        beside.write_text("half")
        raise RuntimeError("in the middle")
    assert list(target.parent.iterdir()) == []
    with paths.whole(target) as beside:
        beside.write_text("whole")
    assert target.read_text() == "whole" and len(list(target.parent.iterdir())) == 1


def test_a_folder_replaces_the_one_before_it_whole(tmp_path):
    target = tmp_path / "set"
    for text in ("one", "two"):
        with paths.whole(target) as beside:
            beside.mkdir()
            (beside / text).write_text(text)
    assert [file.name for file in target.iterdir()] == ["two"] and len(list(tmp_path.iterdir())) == 1


def test_a_failed_replacement_leaves_the_old_folder(tmp_path):
    target = tmp_path / "set"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(OSError, match="disk"), paths.whole(target) as beside:
        beside.mkdir()
        raise OSError("disk full")
    assert [file.name for file in tmp_path.rglob("*")] == ["set", "old"]


def write(path, content=b"x"):
    with paths.whole(path) as beside:
        beside.write_bytes(content)


def test_a_full_disk_and_a_disk_that_may_only_be_read_are_named_by_the_file_wanted(small_disk, monkeypatch):
    monkeypatch.setenv("PNEUMO_NB_HOME", str(small_disk))
    target = paths.report() / "tables.csv"
    with pytest.raises(OSError, match=r"^outputs/report/tables.csv cannot be written: No space left on device$"):
        write(target, bytes(5 * 2**20))
    assert list(target.parent.iterdir()) == []
    for wanted in (target, paths.runs("new") / "deep" / "record.json"):
        with read_only(small_disk), pytest.raises(OSError, match=r"^outputs/r.* cannot be written: Read-only file sys"):
            write(wanted)


def test_a_folder_without_permission_is_named(home):
    seal, opening = (["chattr", "+i"], ["chattr", "-i"]) if os.geteuid() == 0 else (["chmod", "a-w"], ["chmod", "u+w"])
    if not shutil.which(seal[0]) or subprocess.run([*seal, str(home)], capture_output=True).returncode:
        pytest.skip("no folder without permission: root may write everywhere, and this disk knows no chattr +i")
    try:
        with pytest.raises(PermissionError, match=r"^outputs/report/index.html cannot be written: "):
            write(paths.report() / "index.html")
        with pytest.raises(PermissionError, match=r"^pseudonym.key cannot be written: "):
            pseudonyms.key()
    finally:
        subprocess.run([*opening, str(home)], check=True)
    assert list(home.iterdir()) == []


def test_an_error_that_is_not_about_writing_stays_what_it_is(home):
    with pytest.raises(FileNotFoundError, match="nowhere"), paths.whole(home / "x"):
        (home / "nowhere").read_text()
