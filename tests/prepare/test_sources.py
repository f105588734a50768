import csv
import os
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sources import picture, save_picture

from pneumo_nb.prepare import sources
from pneumo_nb.prepare.sources import Row

HEADER = "file,label"


@pytest.fixture
def source(tmp_path):
    for name in ("a.png", "b.png", "inner/c.png", "masks/a.png"):
        save_picture(tmp_path / "source" / name, picture())
    return tmp_path / "source"


def write(folder, *lines, encoding="utf-8"):
    path = folder / "labels.csv"
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def test_every_entry_that_is_not_a_folder_is_an_input(source):
    os.mkfifo(source / "pipe")
    (source / "link").symlink_to(source / "inner")
    (source / "phantom.json").write_text("{}")
    table = write(source, "file,label,lung_mask", "a.png,1,masks/a.png", "b.png,0,")
    names = ["a.png", "b.png", "inner/c.png", "link", "pipe"]
    assert sources.read(source, table)[0] == names


def test_inputs_are_sorted_by_bytes_and_may_have_any_name(source):
    (source / os.fsdecode(b"\xff\xfe.dcm")).write_bytes(b"x")
    (source / "Z.png").write_bytes(b"x")
    found, rows = sources.read(source)
    assert found == sorted(found, key=os.fsencode) and found[0] == "Z.png" and len(found) == 6 and rows is None


def test_rows_are_read_with_what_is_known_and_nothing_else(source):
    table = write(
        source,
        "note,file,label,patient_id,stage,view,opacity_mask",
        "Ada Miller,a.png,1, P7 ,II,pa,masks/a.png",
        ",inner/c.png,0,8,,,",
    )
    _, rows = sources.read(source, table)
    assert rows == {
        "a.png": Row("1", "P7", "", "PA", {"stage": "II"}, {"opacities": source / "masks/a.png"}),
        "inner/c.png": Row("0", "8"),
    }


def test_paths_are_relative_to_the_csv_or_else_to_the_source(source, tmp_path):
    inside = write(source / "inner", HEADER, "c.png,1", "a.png,0")
    outside = write(tmp_path, HEADER, "source/a.png,1", "b.png,0")
    assert set(sources.read(source, inside)[1]) == {"inner/c.png", "a.png"}
    assert set(sources.read(source, outside)[1]) == {"a.png", "b.png"}


def test_a_source_given_from_the_working_directory_leaves_out_its_labels_and_masks_too(source, monkeypatch):
    write(source, "file,label,lung_mask", "a.png,1,inner/c.png", "b.png,0,inner/c.png")
    told = sources.read(source)
    monkeypatch.chdir(source.parent)
    assert sources.read(Path(source.name)) == told and not {"labels.csv", "inner/c.png"} & set(told[0])


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(source):
    table = write(source, HEADER + "\r", "a.png,1\r", "b.png,0\r", "", encoding="utf-8-sig")
    assert set(sources.read(source, table)[1]) == {"a.png", "b.png"}


GOOD = ("b.png,0",)
FAULTS = [
    (("file,class", "a.png,1"), "needs the columns file, label"),
    (("file;label", "a.png;1"), "separated by commas"),
    ((), "needs the columns"),
    ((HEADER,), "has no row with label 0"),
    (("file,label,label", "a.png,1,1"), "two columns of one name"),
    ((HEADER, "a.png,1", "nothing.png,0"), "row 3 names a file that is not in SOURCE"),
    ((HEADER, "a.png,2", *GOOD), "row 2 has no label 0 or 1"),
    ((HEADER, "a.png,", *GOOD), "row 2 has no label 0 or 1"),
    ((HEADER, "a.png", *GOOD), "row 2 has no label 0 or 1"),
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
        sources.read(source, write(source, *lines))
    assert "\n" not in str(caught.value)
    assert not any(word in str(caught.value) for word in ("Miller", "passwd", ".png"))


def test_many_faulty_rows_are_counted_after_the_first_three(source):
    table = write(source, HEADER, *(f"{n}.png,1" for n in range(9)))
    with pytest.raises(ValueError, match=r"row 2 .*; row 3 .*; row 4 .*; and 6 more rows"):
        sources.read(source, table)


def test_another_encoding_is_refused_with_the_row(source):
    with pytest.raises(ValueError, match="not UTF-8 text in row 3"):
        sources.read(source, write(source, HEADER, "a.png,1", "ü.png,0", encoding="latin-1"))


def test_a_mask_behind_a_link_out_of_the_source_is_refused(source, tmp_path):
    save_picture(tmp_path / "elsewhere.png", picture())
    (source / "masks/out.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(ValueError, match="row 2 names a mask"):
        sources.read(source, write(source, "file,label,lung_mask", "a.png,1,masks/out.png", "b.png,0,"))


def test_a_given_split_is_needed_only_if_asked_for(source):
    table = write(source, "file,label,split", "a.png,1,train", "b.png,0,somewhere")
    assert {row.split for row in sources.read(source, table)[1].values()} == {""}
    with pytest.raises(ValueError, match="row 3 has a split"):
        sources.read(source, table, given_split=True)
    with pytest.raises(ValueError, match="label 0 and split train"):
        sources.read(source, write(source, "file,label,split", "a.png,1,train", "b.png,0,test"), given_split=True)
    with pytest.raises(ValueError, match="needs the columns file, label, split"):
        sources.read(source, write(source, HEADER, "a.png,1"), given_split=True)


def test_a_missing_csv_or_source_is_named(source):
    with pytest.raises(ValueError, match=r"'nothing.csv' cannot be opened"):
        sources.read(source, source / "nothing.csv")
    with pytest.raises(ValueError, match="there is no folder"):
        sources.read(source / "nothing")


def test_empty_columns_and_cells_that_spreadsheets_add_or_drop_at_the_end_do_no_harm(source):
    for lines in (
        ("file,label,stage,,,", "a.png,1,II,,,", "b.png,0,,,,", ",,,,,"),
        ("file,label,stage", "a.png,1,II,,", "b.png,0"),
        (" file , label,stage,note, ", "a.png,1,II,,", "b.png,0, ,seen,"),
    ):
        rows = sources.read(source, write(source, *lines))[1]
        assert rows == {"a.png": Row("1", disease={"stage": "II"}), "b.png": Row("0")}
    with pytest.raises(ValueError, match="row 2 has 4 cells, the header has 2"):
        sources.read(source, write(source, HEADER + ",,", "a.png,1,,x", "b.png,0,,"))


def test_a_cell_may_be_as_long_as_a_report(source):
    limit = csv.field_size_limit()
    table = write(source, "file,report,label", f'a.png,"{"dust, " * 60_000}",1', "b.png,,0")
    assert len(sources.read(source, table)[1]) == 2 and csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("lines", "row"),
    [
        (('a.png,1,"coal', *GOOD), 2),
        (("a.png,1,", 'b.png,0,"the "big" one"'), 3),
        (("a.png,1,", 'b.png,0,"two\nlines"', 'inner/c.png,1,"x"y', "masks/a.png,0,"), 4),
    ],
)
def test_a_broken_quotation_is_refused_with_its_row(source, lines, row):
    with pytest.raises(ValueError, match=f"broken quotation in row {row}: ") as caught:
        sources.read(source, write(source, "file,label,note", *lines))
    assert "coal" not in str(caught.value) and "\n" not in str(caught.value)


FORMS = [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")]


@pytest.mark.parametrize(("of_file", "of_csv"), FORMS)
def test_names_are_the_same_in_either_form_of_unicode(tmp_path, of_file, of_csv):
    name, mask = (unicodedata.normalize(of_file, text) for text in ("Röntgen/Müller 1.png", "Röntgen/é.png"))
    source = pictures(tmp_path / "source", name, mask, "b.png")
    row = unicodedata.normalize(of_csv, "Röntgen/Müller 1.png,1,Röntgen/é.png")
    files, rows = sources.read(source, write(source, "file,label,lung_mask", row, "b.png,0,"))
    assert set(rows) == {name, "b.png"} == set(files)
    classes = pictures(
        tmp_path / "classes", *(unicodedata.normalize(of_file, f"{kind}/x.png") for kind in ("Gesund", "Krankü"))
    )
    assert {
        row.label for row in read(classes, None, "classes", "", unicodedata.normalize(of_csv, "KrankÜ")).values()
    } == {
        "0",
        "1",
    }


def test_two_files_of_one_name_in_two_forms_are_told_apart_by_nobody(tmp_path):
    source = pictures(tmp_path, *(unicodedata.normalize(form, "ü.png") for form in ("NFC", "NFD")), "b.png")
    with pytest.raises(ValueError, match="row 2 names 2 files, of one name or equal but for its form of Unicode"):
        sources.read(source, write(source, HEADER, "ü.png,1", "b.png,0"))


def test_folders_as_windows_writes_them_are_told_of(source):
    with pytest.raises(ValueError, match=r"row 3 names a file .*; between folders write / instead of \\"):
        sources.read(source, write(source, HEADER, "b.png,0", "inner\\c.png,1"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [("a", "ending"), ("A.png", "capitals"), ("c.png", "folder"), ("c", "folder and ending"), ("INNER/C", "ending")],
)
def test_a_name_that_is_nearly_right_is_told_what_it_lacks(source, name, hint):
    with pytest.raises(
        ValueError, match=f"row 3 names a file that is not in SOURCE; but for its {hint} a file is named so"
    ):
        sources.read(source, write(source, HEADER, "b.png,0", f"{name},1"))


def test_file_names_that_are_not_utf_8_are_told_of(source):
    (source / os.fsdecode("尘肺.png".encode("gbk"))).write_bytes(b"x")
    with pytest.raises(ValueError, match="the names of 1 files are not UTF-8: rename them, as by convmv"):
        sources.read(source, write(source, HEADER, "b.png,0", "尘肺.png,1"))


def test_several_rows_a_file_are_refused_with_what_an_aggregate_would_be(source):
    boxes = ("a.png,0", "a.png,1", "b.png,0", "a.png,0", "b.png,0", "inner/c.png,1")
    with pytest.raises(ValueError, match=r"row 3 contradicts row 2.*2 files have several rows.* 2 of 3 are label 1"):
        sources.read(source, write(source, HEADER, *boxes))


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
        sources.read(source, write(source, HEADER, "b.png,0", f"{file},1"))
    assert file not in str(caught.value)


def test_formulas_and_paths_as_patients_are_names_like_any_other(source):
    table = write(source, "file,label,patient_id,note", 'a.png,1,"=HYPERLINK(""x"")",=1', "b.png,0,../../etc,@x")
    _, rows = sources.read(source, table)
    assert [row.patient for row in rows.values()] == ['=HYPERLINK("x")', "../../etc"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "cp037"])
def test_other_encodings_are_refused(source, encoding):
    with pytest.raises(ValueError, match="the labels CSV") as caught:
        sources.read(source, write(source, HEADER, "a.png,1", "b.png,0", encoding=encoding))
    assert "\n" not in str(caught.value)


def test_a_row_that_names_a_link_out_of_the_source_leads_nowhere(source, tmp_path):
    save_picture(tmp_path / "elsewhere" / "x.png", picture())
    (source / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="row 2 names a file that is not in SOURCE"):
        sources.read(source, write(source, HEADER, "out/x.png,1", "b.png,0"))


# Made-up files laid out as published sets are; nothing here is taken from them but names of columns.
NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
PADCHEST = ",ImageID,ImageDir,StudyDate_DICOM,PatientID,Projection,Labels"


def nih(name, finding, patient, view):
    return f"{name},{finding},0,{patient},58,M,{view},2682,2749,0.143,0.143,"


def padchest(number, patient, projection, labels):
    return f'{number},{number}_a.png,0,20140915,{patient},{projection},"{labels}"'


def pictures(folder, *names):
    for seed, name in enumerate(names):
        save_picture(folder / name, picture(seed))
    return folder


def read(source, table=None, *texts, given_split=False):
    return sources.read(source, table, given_split, sources.layout(*texts))[1]


def test_nih_files_are_found_in_their_folders_and_rows_without_a_file_are_let_pass(tmp_path):
    names = ("00000001_000.png", "00000001_001.png", "00000002_000.png", "00000003_000.png")
    source = pictures(tmp_path / "nih", *(f"images_00{n % 2 + 1}/images/{name}" for n, name in enumerate(names)))
    findings = ("Fibrosis|Nodule", 1, "PA"), ("No Finding", 1, "AP"), ("Mass", 2, "PA"), ("No Finding", 3, "PA")
    rows = [nih(name, *said) for name, said in zip(names, findings, strict=True)]
    table = write(tmp_path, NIH, *rows, nih("00099999_000.png", "Fibrosis", 3, "PA"))
    rows = read(source, table, "nih", "", "Fibrosis", "No Finding")
    assert rows == {
        "images_001/images/00000001_000.png": Row("1", "1", view="PA"),
        "images_002/images/00000001_001.png": Row("0", "1", view="AP"),
        "images_002/images/00000003_000.png": Row("0", "3", view="PA"),
    }
    everything_else = read(source, table, "nih", "", "fibrosis")
    assert everything_else["images_001/images/00000002_000.png"].label == "0" and len(everything_else) == 4


def test_padchest_labels_are_lists_and_odd_projections_are_left_out(tmp_path):
    source = pictures(tmp_path / "pc", *(f"{n}/{n}_a.png" for n in range(6)))
    table = write(
        tmp_path,
        PADCHEST,
        padchest(0, "P1", "PA", "['asbestosis signs', 'pleural plaques']"),
        *(padchest(n, f"P{n}", view, "['normal']") for n, view in enumerate(("AP_horizontal", "L", "COSTAL"), start=1)),
        padchest(4, "P3", "PA", ""),
        padchest(5, "P3", "PA", "['unchanged', 'calcified granuloma']"),
    )
    rows = read(source, table, "padchest", "", "asbestosis signs", "normal")
    assert rows == {
        "0/0_a.png": Row("1", "P1", view="PA"),
        "1/1_a.png": Row("0", "P1", view="AP"),
        "2/2_a.png": Row("0", "P2", view="L"),  # preparing rejects it as a lateral view
    }


def test_silicodata_by_named_columns_or_by_folders(tmp_path):
    source = pictures(tmp_path / "a", "x/1.png", "x/2.png", "y/3.png", "y/4.png")
    table = write(tmp_path, "Name,Class", "1.png,Silicosis", "2.png,Healthy", "3.png,Tuberculosis")
    rows = read(source, table, "silicodata", "file=Name,label=Class")
    assert {file: row.label for file, row in rows.items()} == {"x/1.png": "1", "x/2.png": "0", "y/3.png": "0"}
    folders = pictures(tmp_path / "b", "Silicotuberculosis/1.png", "Healthy/2.png", "Other/3.png")
    found = read(folders, None, "silicodata")
    assert {file: row.label for file, row in found.items()} == {"Silicotuberculosis/1.png": "1", "Healthy/2.png": "0"}
    with pytest.raises(ValueError, match="needs the columns file, label"):
        read(source, table, "silicodata")


def test_classes_as_folders_with_and_without_parts(tmp_path):
    classes = [f"{part}/{name}" for part in ("train", "test") for name in ("Pneumoconiosis", "normal")]
    source = pictures(tmp_path / "a", *(f"{name}/{n}.jpg" for name in classes for n in (1, 2)), "loose.jpg")
    rows = read(source, None, "classes", "", "pneumoconiosis", given_split=True)
    assert len(rows) == 8 and {row.label for file, row in rows.items() if "normal" in file} == {"0"}
    assert {row.split for file, row in rows.items() if file.startswith("train")} == {"train"}
    numbered = pictures(tmp_path / "b", "images/0/1.jpg", "images/1/1.jpg", "images/unsure/1.jpg")
    assert {file: row.label for file, row in read(numbered, None, "classes").items()} == {
        "images/0/1.jpg": "0",
        "images/1/1.jpg": "1",
    }


PARTS = [("train_images", "test_images"), ("Training", "testing"), ("TrainSet", "TestSet"), ("x-train-2017", "x-test")]


@pytest.mark.parametrize(("train", "test"), PARTS)
def test_the_parts_of_published_folders_are_known_by_a_word_of_their_names(tmp_path, train, test):
    classes = ("folder_normal", "folder_TB", "folder_silicosis", "folder_STB")
    source = pictures(tmp_path, *(f"set/{part}/{name}/1.png" for part in (train, test) for name in classes))
    rows = read(source, None, "silicodata", given_split=True)
    assert {file: (row.label, row.split) for file, row in rows.items()} == {
        f"set/{folder}/{name}/1.png": (str(int(name in classes[2:])), part)
        for folder, part in ((train, "train"), (test, "test"))
        for name in classes
    }
    assert read(source, None, "classes", "", "silicosis,STB", given_split=True) == rows


def test_folders_that_name_no_part_or_no_class_are_told_of(tmp_path):
    source = pictures(tmp_path, *(f"{part}/{name}/1.png" for part in ("contest", "train_test") for name in "01"))
    with pytest.raises(ValueError, match="split=given needs a folder such as train, test_images or val above"):
        read(source, None, "classes", given_split=True)
    with pytest.raises(ValueError, match="no file lies in a folder with label 0"):
        read(source, None, "classes", "", "0,1")


def test_an_odd_name_in_a_folder_of_a_class_does_not_stop_the_others(tmp_path):
    source = pictures(tmp_path / "a", "0/1.png", "1/1.png")
    for name in (" 2.png", "..\\3.png", "4.png "):
        (source / "1" / name).write_bytes(b"x")
    assert set(read(source, None, "classes")) == {"0/1.png", "1/1.png", "1/ 2.png", "1/..\\3.png", "1/4.png "}


def test_columns_and_classes_of_an_own_csv_keep_the_numbers_of_its_rows(tmp_path):
    source = pictures(tmp_path, "a.png", "b.png", "c.png")
    rows = ("S1,Pneumoconiosis,a.png,Ada", "S2,Normal,b.png,Eva", "S3,?,c.png,x")
    table = write(tmp_path, "Subject,Dx,Path,file", *rows)
    texts = ("", "file=Path,label=Dx,patient_id=Subject", "Pneumoconiosis")
    assert read(source, table, *texts, "Normal") == {"a.png": Row("1", "S1"), "b.png": Row("0", "S2")}
    assert read(source, table, *texts)["c.png"].label == "0"
    wrong = write(tmp_path, "Subject,Dx,Path", "S1,Pneumoconiosis,a.png", "S2,?,b.png", "S3,Normal,no")
    with pytest.raises(ValueError, match="row 4 names a file") as caught:
        read(source, wrong, *texts, "Normal")
    assert "S3" not in str(caught.value) and "no.png" not in str(caught.value)


WRONG_LAYOUTS = [
    (("mnist",), "the layouts are classes, nih, padchest, silicodata"),
    (("nih",), "needs --positive"),
    (("", "file", ""), "pairs such as"),
    (("", "=x", ""), "pairs such as"),
    (("", "", "", "Normal"), "needs --positive"),
]


@pytest.mark.parametrize(("texts", "message"), WRONG_LAYOUTS)
def test_a_wrong_layout_is_refused_in_one_line(texts, message):
    with pytest.raises(ValueError, match=message) as caught:
        sources.layout(*texts)
    assert "\n" not in str(caught.value)


def test_missing_columns_and_files_of_one_name_are_refused(tmp_path):
    source = pictures(tmp_path / "a", "x/1.png", "y/1.png", "y/2.png")
    table = write(tmp_path, NIH, nih("2.png", "Mass", 1, "PA"), nih("1.png", "Mass", 1, "PA"))
    with pytest.raises(ValueError, match="row 3 names 2 files, of one name"):
        read(source, table, "nih", "", "Mass")
    with pytest.raises(ValueError, match="has no column ImageID, Labels, PatientID, Projection in row 1"):
        read(source, table, "padchest", "", "normal")
    assert sources.layout() == sources.Layout()


@given(st.lists(st.lists(st.sampled_from(["a", "B", "c", "0", "1", ""]), max_size=4), max_size=9), st.booleans())
@settings(max_examples=20)
def test_an_image_is_positive_if_any_of_its_classes_is(tmp_path_factory, images, all_others):
    folder = tmp_path_factory.mktemp("source")
    layout = replace(sources.layout("", "", "A,b", "" if all_others else "c"), between="|")
    images = {f"{number}.png": classes for number, classes in enumerate([["a"], ["c"], *filter(any, images)])}
    for file in images:
        (folder / file).touch()
    table = write(folder, HEADER, *(f"{file},{'|'.join(classes)}" for file, classes in images.items()))
    rows = sources.read(folder, table, False, layout)[1]
    for file, classes in images.items():
        names = {name.lower() for name in classes}
        wanted = "1" if names & {"a", "b"} else "0" if all_others or "c" in names else ""
        assert (rows[file].label if file in rows else "") == wanted
