import os

import pytest
from sources import picture, save_picture

from pneumo_nb.prepare import labels

HEADER = "file,label"


@pytest.fixture
def source(tmp_path):
    for name in ("a.png", "b.png", "inner/c.png", "masks/a.png"):
        save_picture(tmp_path / "source" / name, picture())
    return tmp_path / "source"


def write(source, *lines, name="labels.csv", encoding="utf-8"):
    path = source / name
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def test_every_entry_that_is_not_a_folder_is_an_input(source):
    os.mkfifo(source / "pipe")
    (source / "link").symlink_to(source / "inner")
    (source / "phantom.json").write_text("{}")
    table = write(source, HEADER)
    names = ["a.png", "b.png", "inner/c.png", "link", "masks/a.png", "pipe"]
    assert labels.find(source, [table]) == names


def test_inputs_are_sorted_by_bytes_and_may_have_any_name(source):
    (source / os.fsdecode(b"\xff\xfe.dcm")).write_bytes(b"x")
    (source / "Z.png").write_bytes(b"x")
    found = labels.find(source)
    assert found == sorted(found, key=os.fsencode) and found[0] == "Z.png" and len(found) == 6


def test_rows_are_read_with_what_is_known_and_nothing_else(source):
    table = write(
        source,
        "note,file,label,patient_id,stage,view,opacity_mask",
        "Ada Miller,a.png,1, P7 ,II,pa,masks/a.png",
        ",inner/c.png,0,8,,,",
    )
    rows = labels.read(table, source)
    assert rows == {
        "a.png": labels.Row("1", "P7", "", "PA", {"stage": "II"}, {"opacities": source / "masks/a.png"}),
        "inner/c.png": labels.Row("0", "8"),
    }


def test_paths_are_relative_to_the_csv_or_else_to_the_source(source, tmp_path):
    inside = write(source / "inner", HEADER, "c.png,1", "a.png,0")
    outside = write(tmp_path, HEADER, "source/a.png,1", "b.png,0")
    assert set(labels.read(inside, source)) == {"inner/c.png", "a.png"}
    assert set(labels.read(outside, source)) == {"a.png", "b.png"}


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(source):
    table = write(source, HEADER + "\r", "a.png,1\r", "b.png,0\r", "", encoding="utf-8-sig")
    assert set(labels.read(table, source)) == {"a.png", "b.png"}


GOOD = ("b.png,0",)
FAULTS = [
    (("file,class", "a.png,1"), "needs the columns file, label"),
    (("file;label", "a.png;1"), "separated by commas"),
    ((), "needs the columns"),
    ((HEADER,), "no rows"),
    (("file,label,label", "a.png,1,1"), "two columns of one name"),
    ((HEADER, "a.png,1", "nothing.png,0"), "row 3 names a file that is not in SOURCE"),
    ((HEADER, "a.png,2", *GOOD), "row 2 has no label 0 or 1"),
    ((HEADER, "a.png,", *GOOD), "row 2 has no label 0 or 1"),
    ((HEADER, "a.png", *GOOD), "row 2 has 1 cells, the header has 2"),
    ((HEADER, "a.png,1,9", *GOOD), "row 2 has 3 cells"),
    ((HEADER, "a.png,1", *GOOD, "./a.png,1"), "row 4 names the file of row 2"),
    ((HEADER, "a.png,1", *GOOD, "a.png,0"), "row 4 contradicts row 2"),
    ((HEADER, "../source/a.png,1", *GOOD), "row 2 has no path within"),
    ((HEADER, "inner/../a.png,1", *GOOD), "row 2 has no path within"),
    ((HEADER, "/etc/passwd,1", *GOOD), "row 2 has no path within"),
    ((HEADER, "=HYPERLINK(1),1", *GOOD), "row 2 names a file"),
    ((HEADER, ",1", *GOOD), "row 2 has no path"),
    ((HEADER, "", ",", "a.png,7", *GOOD), "row 4 has no label"),
    (("file,label,patient_id", "a.png,1,7", "b.png,0, "), "row 3 has no patient_id"),
    (("file,label,stage", "a.png,1,Miller", "b.png,0,"), "row 2 has a stage"),
    (
        ("file,label,profusion", "a.png,1,1 1 0 1 0 4", "b.png,0,"),
        "row 2 has a profusion that is not six grades",
    ),
    (("file,label,letter", "a.png,1,Ada", "b.png,0,"), "row 2 has a letter that is not p, q, r, s, t or u"),
    (("file,label,large", "a.png,1,-1", "b.png,0,"), "row 2 has a large that is not a number of large opacities"),
    (("file,label,diameter_mm", "a.png,1,nan", "b.png,0,"), "row 2 has a diameter_mm that is not a number"),
    (("file,label,largest_mm", "a.png,1,٣", "b.png,0,"), "row 2 has a largest_mm that is not a number"),
    (("file,label,lung_mask", "a.png,1,masks/b.png", "b.png,0,"), "row 2 names a mask"),
    (("file,label,lung_mask", "a.png,1,../secret.png", "b.png,0,"), "row 2 has no path"),
    ((HEADER, "a.png,1", "b.png,1"), "no row with label 0"),
    ((HEADER, '"a.png,1', *GOOD), "broken quotation"),
]


@pytest.mark.parametrize("lines,message", FAULTS)
def test_a_faulty_csv_is_refused_in_one_line(source, lines, message):
    with pytest.raises(ValueError, match=message) as caught:
        labels.read(write(source, *lines), source)
    assert "\n" not in str(caught.value)
    assert not any(word in str(caught.value) for word in ("Miller", "passwd", ".png"))


def test_many_faulty_rows_are_counted_after_the_first_three(source):
    table = write(source, HEADER, *(f"{n}.png,1" for n in range(9)))
    with pytest.raises(ValueError, match=r"row 2 .*; row 3 .*; row 4 .*; and 6 more rows"):
        labels.read(table, source)


def test_another_encoding_is_refused_with_the_row(source):
    with pytest.raises(ValueError, match="not UTF-8 text in row 3"):
        labels.read(write(source, HEADER, "a.png,1", "ü.png,0", encoding="latin-1"), source)


def test_a_mask_behind_a_link_out_of_the_source_is_refused(source, tmp_path):
    save_picture(tmp_path / "elsewhere.png", picture())
    (source / "masks/out.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(ValueError, match="row 2 names a mask"):
        labels.read(write(source, "file,label,lung_mask", "a.png,1,masks/out.png", "b.png,0,"), source)


def test_a_given_split_is_needed_only_if_asked_for(source):
    table = write(source, "file,label,split", "a.png,1,train", "b.png,0,somewhere")
    assert {row.split for row in labels.read(table, source).values()} == {""}
    with pytest.raises(ValueError, match="row 3 has a split"):
        labels.read(table, source, given_split=True)
    with pytest.raises(ValueError, match="label 0 and split train"):
        labels.read(write(source, "file,label,split", "a.png,1,train", "b.png,0,test"), source, given_split=True)
    with pytest.raises(ValueError, match="needs the columns file, label, split"):
        labels.read(write(source, HEADER, "a.png,1"), source, given_split=True)


def test_a_missing_csv_or_source_is_named(source):
    with pytest.raises(ValueError, match=r"'nothing.csv' cannot be opened"):
        labels.read(source / "nothing.csv", source)
    with pytest.raises(ValueError, match="there is no folder"):
        labels.find(source / "nothing")


HOSTILE = [
    "..\\..\\a.png",
    "C:\\a.png",
    "\\\\server\\a.png",
    "inner/../../a.png",
    "a.png\\..\\..\\b",
    "~/a.png",
    "=1+1",
]


@pytest.mark.parametrize("file", [*HOSTILE, "@SUM(A1)", "+cmd", "-1", "'a.png'", "A.PNG", "${HOME}/a.png"])
def test_a_hostile_file_name_is_refused_with_its_row_and_not_echoed(source, file):
    with pytest.raises(ValueError, match="the labels CSV: row 3 ") as caught:
        labels.read(write(source, HEADER, "b.png,0", f"{file},1"), source)
    assert file not in str(caught.value)


def test_formulas_and_paths_as_patients_are_names_like_any_other(source):
    table = write(source, "file,label,patient_id,note", 'a.png,1,"=HYPERLINK(""x"")",=1', "b.png,0,../../etc,@x")
    rows = labels.read(table, source)
    assert [row.patient for row in rows.values()] == ['=HYPERLINK("x")', "../../etc"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "cp037"])
def test_other_encodings_are_refused(source, encoding):
    with pytest.raises(ValueError, match="the labels CSV") as caught:
        labels.read(write(source, HEADER, "a.png,1", "b.png,0", encoding=encoding), source)
    assert "\n" not in str(caught.value)


def test_a_row_that_names_a_link_out_of_the_source_leads_nowhere(source, tmp_path):
    save_picture(tmp_path / "elsewhere" / "x.png", picture())
    (source / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="row 2 names a file that is not in SOURCE"):
        labels.read(write(source, HEADER, "out/x.png,1", "b.png,0"), source)
