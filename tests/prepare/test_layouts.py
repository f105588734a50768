"""Made-up files laid out as published sets are; nothing here is taken from them but names of columns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sources import picture, save_picture

from pneumo_nb.prepare import labels, layouts

NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
PADCHEST = ",ImageID,ImageDir,StudyDate_DICOM,PatientID,Projection,Labels"


def write(folder, name, *lines):
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def pictures(folder, *names):
    for seed, name in enumerate(names):
        save_picture(folder / name, picture(seed))
    return folder


def read(source, table=None, *texts, given_split=False):
    return labels.read(table, source, given_split, layouts.chosen(*texts, csv=table is not None))


def test_nih_files_are_found_in_their_folders_and_rows_without_a_file_are_let_pass(tmp_path):
    names = ("00000001_000.png", "00000001_001.png", "00000002_000.png", "00000003_000.png")
    source = pictures(tmp_path / "nih", *(f"images_00{n % 2 + 1}/images/{name}" for n, name in enumerate(names)))
    table = write(
        tmp_path, "Data_Entry_2017.csv", NIH,
        "00000001_000.png,Fibrosis|Nodule,0,1,58,M,PA,2682,2749,0.143,0.143,",
        "00000001_001.png,No Finding,1,1,58,M,AP,2682,2749,0.143,0.143,",
        "00000002_000.png,Mass,0,2,81,M,PA,2500,2048,0.171,0.171,",
        "00000003_000.png,No Finding,0,3,81,F,PA,2500,2048,0.171,0.171,",
        "00099999_000.png,Fibrosis,0,3,81,F,PA,2500,2048,0.171,0.171,",
    )  # fmt: skip
    rows = read(source, table, "nih", "", "Fibrosis", "No Finding")
    assert rows == {
        "images_001/images/00000001_000.png": labels.Row("1", "1", view="PA"),
        "images_002/images/00000001_001.png": labels.Row("0", "1", view="AP"),
        "images_002/images/00000003_000.png": labels.Row("0", "3", view="PA"),
    }
    everything_else = read(source, table, "nih", "", "fibrosis")
    assert everything_else["images_001/images/00000002_000.png"].label == "0" and len(everything_else) == 4


def test_padchest_labels_are_lists_and_odd_projections_are_left_out(tmp_path):
    source = pictures(tmp_path / "pc", *(f"{n}/{n}_a.png" for n in range(6)))
    table = write(
        tmp_path, "PADCHEST.csv", PADCHEST,
        "0,0_a.png,0,20140915,P1,PA,\"['asbestosis signs', 'pleural plaques']\"",
        "1,1_a.png,0,20140915,P1,AP_horizontal,\"['normal']\"",
        "2,2_a.png,0,20140915,P2,L,\"['normal']\"",
        "3,3_a.png,0,20140915,P2,COSTAL,\"['normal']\"",
        "4,4_a.png,0,20140915,P3,PA,",
        "5,5_a.png,0,20140915,P3,PA,\"['unchanged', 'calcified granuloma']\"",
    )  # fmt: skip
    rows = read(source, table, "padchest", "", "asbestosis signs", "normal")
    assert rows == {
        "0/0_a.png": labels.Row("1", "P1", view="PA"),
        "1/1_a.png": labels.Row("0", "P1", view="AP"),
        "2/2_a.png": labels.Row("0", "P2", view="L"),  # preparing rejects it as a lateral view
    }


def test_silicodata_by_named_columns_or_by_folders(tmp_path):
    source = pictures(tmp_path / "a", "x/1.png", "x/2.png", "y/3.png", "y/4.png")
    table = write(tmp_path, "labels.csv", "Name,Class", "1.png,Silicosis", "2.png,Healthy", "3.png,Tuberculosis")
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


def test_an_odd_name_in_a_folder_of_a_class_does_not_stop_the_others(tmp_path):
    source = pictures(tmp_path / "a", "0/1.png", "1/1.png")
    for name in (" 2.png", "..\\3.png", "4.png "):
        (source / "1" / name).write_bytes(b"x")
    assert set(read(source, None, "classes")) == {"0/1.png", "1/1.png", "1/ 2.png"}


def test_columns_and_classes_of_an_own_csv_keep_the_numbers_of_its_rows(tmp_path):
    source = pictures(tmp_path, "a.png", "b.png", "c.png")
    table = write(
        tmp_path,
        "own.csv",
        "Subject,Dx,Path,file",
        "S1,Pneumoconiosis,a.png,Ada",
        "S2,Normal,b.png,Eva",
        "S3,?,c.png,x",
    )
    texts = ("", "file=Path,label=Dx,patient_id=Subject", "Pneumoconiosis")
    assert read(source, table, *texts, "Normal") == {"a.png": labels.Row("1", "S1"), "b.png": labels.Row("0", "S2")}
    assert read(source, table, *texts)["c.png"].label == "0"
    wrong = write(tmp_path, "wrong.csv", "Subject,Dx,Path", "S1,Pneumoconiosis,a.png", "S2,?,b.png", "S3,Normal,no.png")
    with pytest.raises(ValueError, match="row 4 names a file") as caught:
        read(source, wrong, *texts, "Normal")
    assert "S3" not in str(caught.value) and "no.png" not in str(caught.value)


REFUSED = [
    (("mnist",), "the layouts are classes, nih, padchest, silicodata"),
    (("nih",), "needs --positive"),
    (("", "file", ""), "pairs such as"),
    (("", "=x", ""), "pairs such as"),
    (("", "", "", "Normal"), "needs --positive"),
]


@pytest.mark.parametrize(("texts", "message"), REFUSED)
def test_a_wrong_layout_is_refused_in_one_line(texts, message):
    with pytest.raises(ValueError, match=message) as caught:
        layouts.chosen(*texts)
    assert "\n" not in str(caught.value)


def test_missing_columns_and_files_of_one_name_are_refused(tmp_path):
    source = pictures(tmp_path / "a", "x/1.png", "y/1.png", "y/2.png")
    table = write(tmp_path, "nih.csv", NIH, "2.png,Mass,0,1,58,M,PA,1,1,1,1,", "1.png,Mass,0,1,58,M,PA,1,1,1,1,")
    with pytest.raises(ValueError, match=r"row 3 names a file that is in SOURCE 2 times"):
        read(source, table, "nih", "", "Mass")
    with pytest.raises(ValueError, match="has no column ImageID, Labels, PatientID, Projection in row 1"):
        read(source, table, "padchest", "", "normal")
    assert layouts.chosen() is None


@given(st.lists(st.sampled_from(["a", "B", "c", "0", "1", ""]), max_size=4), st.booleans())
def test_an_image_is_positive_if_any_of_its_classes_is(classes, all_others):
    layout = layouts.chosen("", "", "A,b", "" if all_others else "c")
    table = layouts.from_csv([["file", "label"], ["x", "|".join(classes)]], [], layouts.replace(layout, between="|"))
    told = table[1][1] if table[1] else ""
    names = {name.lower() for name in classes} - {""}
    if names & {"a", "b"}:
        assert told == "1"
    elif names:
        assert told == ("0" if all_others or "c" in names else "")
