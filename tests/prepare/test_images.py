import os

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sources import picture, radiograph, save, save_picture, stored_values

from pneumo_nb.prepare import images
from pneumo_nb.prepare.dicom import Rejected


def test_files_are_known_by_content_and_not_by_name(tmp_path):
    save_picture(tmp_path / "a.png", picture()).rename(tmp_path / "a.dcm")
    save(radiograph(stored_values()), tmp_path / "b.dcm").rename(tmp_path / "b.jpg")
    save_picture(tmp_path / "c.jpg", picture()).rename(tmp_path / "c")
    assert [images.load(tmp_path / name)[0] for name in ("a.dcm", "b.jpg", "c")] == ["png", "dicom", "jpg"]


def test_dicom_without_a_preamble_is_known(tmp_path):
    for name, start in (
        ("meta", b"\2\0\0\0UL\4\0"),
        ("explicit", b"\x08\0\5\0CS\x0a\0"),
        ("implicit", b"\x08\0\5\0\x0a\0\0\0"),
    ):
        (tmp_path / name).write_bytes(start + bytes(300))
        assert images.load(tmp_path / name)[0] == "dicom"


@pytest.mark.parametrize("content,reason", [(b"", "empty"), (b"GIF89a", "not a DICOM, JPG or"), (b"\0" * 200, "not a")])
def test_other_files_are_rejected(tmp_path, content, reason):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(Rejected, match=reason):
        images.load(tmp_path / "a")


def test_links_and_pipes_are_rejected_without_being_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(save_picture(tmp_path / "a.png", picture()))
    for name in ("pipe", "link", "."):
        with pytest.raises(Rejected, match="not a regular file"):
            images.load(tmp_path / name)
    with pytest.raises(Rejected, match=r"cannot be read \(FileNotFoundError\)"):
        images.load(tmp_path / "vanished")


@pytest.mark.parametrize("dtype,bits", [(np.uint8, 8), (np.uint16, 16)])
def test_a_png_is_read_to_the_bit(tmp_path, dtype, bits):
    image = picture(dtype=dtype)
    read, facts = images.read(save_picture(tmp_path / "a.png", image).read_bytes(), bits)
    assert np.array_equal(read, image)
    assert (facts["bits"], facts["width"], facts["height"]) == (bits, 96, 80)


def test_black_and_white_stay_so_when_bits_change(tmp_path):
    eight = save_picture(tmp_path / "a.png", np.tile(np.arange(256, dtype=np.uint8), (64, 1)))
    sixteen = images.read(eight.read_bytes(), 16)[0]
    assert (sixteen.min(), sixteen.max()) == (0, 65535)
    back = images.read(save_picture(tmp_path / "b.png", sixteen).read_bytes(), 8)[0]
    assert np.array_equal(back, images.read(eight.read_bytes())[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_equal_channels_and_an_opaque_alpha_are_grey(tmp_path, dtype):
    image = picture(dtype=dtype)
    opaque = np.full_like(image, np.iinfo(dtype).max)
    for channels in ([image] * 3, [image] * 3 + [opaque]):
        content = save_picture(tmp_path / "a.png", cv2.merge(channels)).read_bytes()
        assert np.array_equal(images.read(content, 8 * image.itemsize)[0], image)


@pytest.mark.parametrize("white", [4095, 16383])
def test_bits_that_a_png_does_not_use_cost_no_grey_level(tmp_path, white):
    values = np.round(np.linspace(0.1, 0.95, 6400).reshape(80, 80) * white).astype(np.uint16)
    image, facts = images.read(save_picture(tmp_path / "a.png", values).read_bytes())
    assert np.abs(image - values / white * 255).max() <= 0.5 and facts["grey_range"] == "used"
    image, facts = images.read(save_picture(tmp_path / "a.png", values // (white // 4095) + 40000).read_bytes())
    assert len(np.unique(image)) > 200 and facts["grey_range"] == "unknown"


@pytest.mark.parametrize(
    "trailer", [b"\r\n", bytes(300), b"exported by ACME", b"\0\0\x01\x0aImage_UTC_Data16SEFHk\0SEFT"]
)
@pytest.mark.parametrize("form", ["jpg", "png"])
def test_what_follows_the_end_of_an_image_is_no_cut(tmp_path, form, trailer):
    whole = save_picture(tmp_path / f"a.{form}", picture()).read_bytes()
    other = save_picture(tmp_path / f"b.{form}", picture(1)).read_bytes()
    for content in (whole + trailer, whole + other):
        assert np.array_equal(images.read(content)[0], images.read(whole)[0])
    with pytest.raises(Rejected, match="ends before the end"):
        images.read(whole[:-500] + (trailer if form == "jpg" else b""))


def test_a_picture_cut_short_is_not_ended_by_another(tmp_path):
    content = save_picture(tmp_path / "a.jpg", picture()).read_bytes()
    with pytest.raises(Rejected, match="ends before the end"):
        images.read(content[: len(content) // 2] + content)


def test_a_png_cut_short_is_not_ended_by_another(tmp_path):
    content = save_picture(tmp_path / "a.png", picture()).read_bytes()
    for cut in (8, 33, *range(50, len(content) - 12, 100), len(content) - 12, len(content) - 5):
        with pytest.raises(Rejected):
            images.read(content[:cut] + content)


def test_the_range_used_is_the_smallest_of_whole_bits_if_it_is_half_of_what_is_declared_or_less():
    for least, greatest, found in (
        (0, 4095, (0, 4095)),
        (7, 32767, (0, 32767)),
        (0, 32768, (0, 65535)),
        (0, 1, (0, 1)),
    ):
        assert images.used_range(counted([least, greatest]))[:2] == found
    for least, greatest, found in ((-1, 0, (-2, 1)), (-2048, 2047, (-2048, 2047)), (-2049, 5, (-4096, 4095))):
        assert images.used_range(counted([least + 32768, greatest + 32768]), -32768) == (*found, "used")
    assert images.used_range(counted([0, 65535]), -32768) == (-32768, 32767, "declared")


def counted(values: list[int]) -> np.ndarray:
    counts = np.zeros(65536, np.int64)
    counts[values] = 100
    return counts


@pytest.mark.parametrize(
    "image,reason",
    [
        (cv2.merge([picture(0), picture(1), picture(2)]), "channels differ"),
        (cv2.merge([picture()] * 4), "alpha channel is not opaque"),
        (np.full((80, 80), 9, np.uint8), "one grey value"),
        (picture(shape=(63, 80)), "80 x 63"),
        (np.zeros((5000, 9000), np.uint8), "more than 40,000,000"),
    ],
)
def test_pictures_that_are_no_radiographs_are_rejected(tmp_path, image, reason):
    with pytest.raises(Rejected, match=reason):
        images.read(save_picture(tmp_path / "a.png", image).read_bytes())


@pytest.mark.parametrize("form", ["jpg", "png"])
def test_a_size_that_is_a_bomb_is_rejected_before_decoding(tmp_path, form, monkeypatch):
    path = save_picture(tmp_path / f"a.{form}", picture())
    content = path.read_bytes()
    small, huge = (80).to_bytes(2, "big") + (96).to_bytes(2, "big"), b"\xff\xff\xff\xff"
    if form == "png":
        small, huge = (96).to_bytes(4, "big"), (2**31 - 1).to_bytes(4, "big")
    path.write_bytes(content.replace(small, huge, 1))
    monkeypatch.setattr(images, "decode", None)
    with pytest.raises(Rejected, match="more than"):
        images.read(path.read_bytes())


@pytest.mark.parametrize("form", ["jpg", "png"])
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_file_cut_short_is_rejected(tmp_path, form, data):
    whole = save_picture(tmp_path / f"a.{form}", picture()).read_bytes()
    path = tmp_path / "cut"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(Rejected):
        images.read(path.read_bytes())


def test_what_is_written_holds_pixels_only():
    image = picture()
    assert np.array_equal(images.decode(images.encode(image, "png")), image)
    assert len(images.encode(image, "jpg", 95)) > len(images.encode(image, "jpg", 50))
    for marker in (b"Exif", b"JFIF comment", b"http", b"tEXt"):
        assert marker not in images.encode(image, "jpg") + images.encode(image, "png")


def test_a_picture_unlike_the_others_is_ranked_first():
    random = np.random.default_rng(0)
    chests = np.zeros((60, 48, 48), np.uint8)
    for chest in chests:
        chest[:8], chest[8:36], chest[36:] = random.integers((5, 140, 220), (40, 200, 255))  # neck, chest, belly
        left, top = random.integers(6, 10, 2)  # of the lungs
        chest[top : top + 28, left : left + 12] = chest[top : top + 28, left + 18 : left + 30] = random.integers(20, 60)
    cat = np.zeros((48, 48), np.uint8)
    cv2.circle(cat, (24, 24), 18, 200, -1)
    for stranger in (cat, 255 - chests[0], chests[0][::-1], np.rot90(chests[0]), random.integers(0, 256, (48, 48))):
        tiles = np.insert(chests, 17, stranger.astype(np.uint8), axis=0)
        assert images.unusual(tiles).argmax() == 17
    assert 0.5 < np.median(images.unusual(chests)) < 1.5
    assert (images.unusual(chests[:1]) == 0).all()


def test_a_tile_is_eight_bits_whatever_the_image(tmp_path):
    eight = images.tile(save_picture(tmp_path / "a.png", picture(shape=(90, 70))), 48)
    sixteen = images.tile(save_picture(tmp_path / "b.png", picture(shape=(90, 70), dtype=np.uint16)), 48)
    assert eight.shape == sixteen.shape == (48, 48) and eight.dtype == sixteen.dtype == np.uint8
