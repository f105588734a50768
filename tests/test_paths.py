import pytest

from pneumo_nb import paths


def test_folders_follow_the_environment_not_the_working_directory(home, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert paths.prepared("nih") == home / "data" / "prepared" / "nih"
    assert paths.runs("k") == home / "outputs" / "runs" / "k"
    assert paths.pseudonym_key().parent == home


def test_without_the_variable_the_root_is_the_checkout(monkeypatch):
    monkeypatch.delenv("PNEUMO_NB_HOME", raising=False)
    assert (paths.root() / "pyproject.toml").is_file()
    assert paths.notebooks() == paths.root() / "notebooks"


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
