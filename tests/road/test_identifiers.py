"""Identifiers planted wherever a source can hold them, and looked for in all that the road leaves behind or prints."""

import base64
import os
import re
import subprocess
import sys

import canaries
import pandas as pd
import pytest
from pydicom import dcmread

from pneumo_nb import paths

TINY = ("-p", "EPOCHS", "1", "-p", "IMAGE_SIZE", "32", "-p", "BATCH_SIZE", "16")


def called(home, *command) -> tuple[int, bytes]:
    """Exit code and all that `python -m pneumo_nb ...` prints."""
    environment = os.environ | {"PNEUMO_NB_HOME": str(home)}
    command = [sys.executable, "-m", "pneumo_nb", *map(str, command)]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """The source full of canaries, prepared, and a training on it; what was printed on the way."""
    planted, home = canaries.Planted(), tmp_path_factory.mktemp("home")
    source = tmp_path_factory.mktemp("source") / planted.text("source folder")
    with pytest.warns(UserWarning):  # pydicom does not like some of these values
        numbers = canaries.source(source, planted)
    code, printed = called(home, "prepare", source, "--name", "x")
    assert code == 0, printed.decode()
    trained, more = called(home, "reproduce", "--dataset", "x", "--only", "01,04", *TINY)
    assert trained == 0, more.decode()
    return planted, source, home, numbers, printed + more


def test_thousands_of_canaries_are_planted_in_every_place(road):
    planted, *_ = road
    assert len(planted.where) >= 3000
    places = " ".join(planted.where.values())
    table = {f"({group:04X},{element:04X})" for group, element in canaries.TABLE}
    found = set(re.findall(r"\([0-9A-F]{4},[0-9A-F]{4}\)", places))
    for what in ("icon", "depth 5", "trailing padding"):
        assert what in places
    found |= {"(0088,0200)", "(0040,A730)", "(FFFC,FFFC)"}  # as just said
    never_in_a_file = {"(0000,1000)", "(0000,1001)"}  # command elements travel with messages only
    too_short = {"(0010,21C0)", "(0016,0075)"}  # 16 bits: no number that could be recognised
    assert len(table) > 600 and table - found == never_in_a_file | too_short
    for what in (
        "depth 5",
        "preamble",
        "meta",
        "icon",
        "private 0029",
        "(5000,3000)",
        "(6000,3000)",
        "EXIF",
        "XMP",
        "CSV",
    ):
        assert what in places
    assert all(name in places for name in canaries.CHARACTER_SETS)


def test_the_planted_values_are_in_the_files(road):
    planted, source, *_ = road
    content = b"".join(path.read_bytes() for path in source.rglob("*") if path.is_file())
    found = list(source.rglob("*"))
    names = " ".join(map(str, [*found, *(path.readlink() for path in found if path.is_symlink())]))
    plain = [value for value in planted.where if value.startswith((canaries.MARK, canaries.UID))]
    there = set(re.findall(f"{canaries.MARK}[0-9A-Z]{{4}}", content.decode("latin-1") + names))
    there |= set(re.findall(rf"{re.escape(canaries.UID)}\d+", content.decode("latin-1")))
    # the number of a UID may run on into the digits of what comes next
    missing = {planted.where[value] for value in plain if value not in there and value.encode() not in content}
    assert len(plain) > 3000 and missing == {"PNG packed text"}
    example = next(path for path in source.rglob("*.dcm") if b"ISO_IR 144" in path.read_bytes())
    assert str(dcmread(example).PatientName).startswith(canaries.CHARACTER_SETS["ISO_IR 144"])


def test_none_of_them_is_in_any_file_or_name_or_message(road):
    planted, _, home, (accepted, rejected), printed = road
    manifest = pd.read_csv(paths_of(home) / "manifest.csv")
    rejects = pd.read_csv(paths_of(home) / "rejects.csv")
    assert (len(manifest), len(rejects)) == (accepted, rejected)
    assert f"{accepted} accepted, {rejected} rejected".encode() in printed
    assert canaries.leaks(printed, planted) == set()
    assert canaries.leaks_of_folder(home, planted) == {}
    for part in ("data/prepared/x/images", "outputs/runs", "outputs/executed/x", "outputs/report"):
        assert any((home / part).iterdir()), part  # there was something to search


def test_the_key_stays_in_its_file(road):
    *_, home, _, printed = road
    key = (home / "pseudonym.key").read_bytes().strip()
    assert key not in printed
    for part in ("data", "outputs"):
        assert not [path for path in (home / part).rglob("*") if path.is_file() and key in path.read_bytes()]


def test_prepared_pictures_have_no_room_for_text(road):
    """No segment of a JPG and no chunk of a PNG but those that hold the picture."""
    folder = paths_of(road[2])
    for path in folder.rglob("*.jpg"):
        content, place, kinds = path.read_bytes(), 2, set()
        while content[place + 1] != 0xDA:
            kinds.add(content[place + 1])
            place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        assert kinds <= {0xE0, 0xDB, 0xC0, 0xC4}  # JFIF, tables, frame
        assert content.endswith(b"\xff\xd9")
    for path in folder.rglob("*.png"):
        content, place, chunks = path.read_bytes(), 8, set()
        while place < len(content):
            chunks.add(content[place + 4 : place + 8])
            place += 12 + int.from_bytes(content[place : place + 4], "big")
        assert chunks == {b"IHDR", b"IDAT", b"IEND"}


FAULTY = {
    "unknown file": "{}.dcm,1,{}",
    "label": "a.png,{},{}",
    "formula": "=HYPERLINK({}),1,{}",
    "traversal": "../{}.dcm,1,{}",
    "too many cells": "a.png,1,{},{}",
}


@pytest.mark.parametrize("row", FAULTY.values(), ids=FAULTY)
def test_a_faulty_row_is_named_by_number_and_not_quoted(home, row):
    planted, source = canaries.Planted(), home / "source"
    source.mkdir()
    for name in ("a.png", "b.png"):
        canaries.save_png(source / name, canaries.stored_values(8).astype("uint8"), planted)
    row = row.format(*(planted.text("CSV cell") for _ in range(2)))
    (source / "labels.csv").write_text(f"file,label,patient_id\nb.png,0,{planted.text('patient')}\n{row}\n")
    code, printed = called(home, "prepare", source, "--name", "x")
    assert code == 2 and b"row 3 " in printed and printed.count(b"\n") == 1
    assert canaries.leaks(printed, planted) == set()
    assert not (home / "data").exists()


def leaked(form: str, planted: canaries.Planted, folder) -> None:
    """Let one canary out in this form."""
    value, letters = planted.text("leak"), canaries.CHARACTER_SETS["ISO_IR 144"]
    contents = {
        "UTF-8": f"name: {value}".encode(),
        "small letters": value.lower().encode(),
        "UTF-16": f"name: {value}".encode("utf-16"),
        "big-endian UTF-16": value.encode("utf-16-be"),
        "a character set": letters.encode("iso8859_5"),
        "a character set taken for Latin-1": letters.encode("iso8859_5").decode("latin-1").encode(),
        "letters beyond Latin-1 in UTF-16": letters.encode("utf-16"),
        "JSON": repr({"a": letters}).encode("ascii", "backslashreplace"),
        "UID": planted.uid("leak").encode(),
        "date": f"seen on {planted.day('leak')}".encode(),
        "date with hyphens": "{0[0]}{0[1]}{0[2]}{0[3]}-{0[4]}{0[5]}-{0[6]}{0[7]}".format(planted.day("leak")).encode(),
        "time": planted.time("leak").encode(),
        "number": f"{planted.number('leak')}.0".encode(),
    }
    contents |= {
        f"base64 {shift}": b'"image/png": "' + base64.b64encode(b"." * shift + value.encode()) for shift in range(3)
    }
    contents["base64 of UTF-16"] = base64.b64encode(f"name: {value}".encode("utf-16-le"))
    contents["base64 of a date"] = base64.b64encode(f"on {planted.day('leak')} at".encode())
    if form in contents:
        (folder / "file").write_bytes(os.urandom(1000) + b" " + contents[form] + b"\n")
    else:
        (folder / value).mkdir()
    return list(contents)


FORMS = ["UTF-8", "small letters", "UTF-16", "big-endian UTF-16", "a character set", "JSON", "UID", "date", "time"]
FORMS += ["a character set taken for Latin-1", "letters beyond Latin-1 in UTF-16", "date with hyphens", "number"]
FORMS += ["base64 0", "base64 1", "base64 2", "base64 of UTF-16", "base64 of a date", "folder name"]


@pytest.mark.parametrize("form", FORMS)
def test_the_search_finds_what_leaks(tmp_path, form):
    planted = canaries.Planted()
    assert canaries.leaks_of_folder(tmp_path, planted) == {}
    leaked(form, planted, tmp_path)
    assert len(canaries.leaks_of_folder(tmp_path, planted)) == 1


def paths_of(home):
    return home / paths.prepared("x").relative_to(paths.root())
