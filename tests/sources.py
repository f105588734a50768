"""Made-up source files for the tests of the preparing stage."""

from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import gdcm
import numpy as np
from openjpeg.utils import encode_array
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian as Deflated
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

ENCODINGS = [RLELossless, JPEG2000Lossless, JPEGLSLossless, ExplicitVRBigEndian, Deflated]
COMPUTED_RADIOGRAPHY = "1.2.840.10008.5.1.4.1.1.1"


def stored_values(bits=12, signed=False, shape=(70, 90), seed=0) -> np.ndarray:
    """Random stored values that reach both ends of what `bits` can hold."""
    low = -(2 ** (bits - 1)) if signed else 0
    values = np.random.default_rng(seed).integers(low, low + 2**bits, shape)
    values.flat[:2] = low, low + 2**bits - 1
    return values


def radiograph(values: np.ndarray, bits=12, signed=False, **elements) -> Dataset:
    """A chest radiograph with these stored values; an element given as None is left out."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = COMPUTED_RADIOGRAPHY
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = "1.2.3"
    header.Modality, header.BodyPartExamined, header.ViewPosition, header.PatientID = "CR", "CHEST", "PA", "PAT-1"
    header.Rows, header.Columns = values.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = 8 if bits <= 8 else 16
    header.BitsStored, header.HighBit, header.PixelRepresentation = bits, bits - 1, int(signed)
    pixels = values.astype(f"<{'i' if signed else 'u'}{header.BitsAllocated // 8}").tobytes()
    header.PixelData = pixels + b"\0" * (len(pixels) % 2)
    for keyword, value in elements.items():
        if value is None:
            delattr(header, keyword)
        else:
            setattr(header, keyword, value)
    return header


def lut(entries: np.ndarray, bits: int, first=0) -> Sequence:
    """A look-up table of words, with `bits` in each, for the values from `first` on."""
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item.LUTData = entries.astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    return Sequence([item])


def encode(header: Dataset, syntax: str) -> Dataset:
    """Hold the 12-bit pixels in another transfer syntax without loss."""
    values = np.frombuffer(header.PixelData, "<u2").reshape(header.Rows, header.Columns)
    if syntax == RLELossless:
        header.compress(syntax)
        return header
    if syntax == JPEG2000Lossless:
        header.PixelData = encapsulate([encode_array(values, bits_stored=12, photometric_interpretation=2)])
        header["PixelData"].is_undefined_length = True
    elif syntax == JPEGLSLossless:
        header["PixelData"] = _jpeg_ls(header)["PixelData"]
    elif syntax == ExplicitVRBigEndian:
        header.PixelData = values.astype(">u2").tobytes()
    header.file_meta.TransferSyntaxUID = syntax
    return header


def _jpeg_ls(header: Dataset) -> Dataset:
    """As GDCM encodes it, by way of a file."""
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    with TemporaryDirectory() as folder:
        path = str(save(header, Path(folder) / "a.dcm"))
        reader.SetFileName(path)
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLSLossless))
        assert reader.Read()
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(path)
        assert writer.Write()
        return dcmread(BytesIO(Path(path).read_bytes()))


def save(header: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)
    return path


def picture(seed=0, shape=(80, 96), dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def save_picture(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


def folder_of_pictures(folder: Path, negatives=10, positives=10) -> Path:
    """PNG files and a labels.csv with a patient for each."""
    lines = ["file,label,patient_id"]
    for number in range(negatives + positives):
        save_picture(folder / f"{number:03}.png", picture(number))
        lines.append(f"{number:03}.png,{int(number >= negatives)},patient-{number}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder
