"""Names that tell nothing to whoever lacks the key: the same input and key give the same name on every machine."""

import hmac
import os
import re
import secrets
import tempfile
from contextlib import suppress
from datetime import date, timedelta

from pneumo_nb import paths

PUBLIC = bytes(32)  # in place of the secret where all patients are invented: the same pseudonyms on every machine


def key(make: bool = True) -> bytes:
    """The secret of this project folder, made on first use and readable by its owner only.

    It appears whole or not at all, so that two processes starting together agree. ValueError for a file that others may
    read, or that holds anything but 64 hexadecimal digits, because new pseudonyms would not join with the old. Unless
    it is to be `make`d, a missing key is replaced by one that nobody keeps.
    """
    path = paths.pseudonym_secret()
    if not path.exists():
        if not make:
            return secrets.token_bytes(32)
        with paths.writing(path), tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.") as beside:
            beside.write(secrets.token_hex(32) + "\n")
            beside.flush()
            os.fsync(beside.fileno())
            with suppress(FileExistsError):  # the name is taken: the first process wins
                os.link(beside.name, path)
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path.name} can be read by others: chmod 600 {path.name}, or a new key if they have read it")
    text = path.read_text(errors="replace").strip()
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError(f"{path.name} must hold 64 hexadecimal digits: restore it, or remove it to start anew")
    return bytes.fromhex(text)


def digest(secret: bytes, kind: str, name: str) -> str:
    """HMAC-SHA256 in hexadecimal; `kind` keeps, say, a patient and a file of one name apart."""
    return hmac.new(secret, f"{kind}\0{name}".encode("utf-8", "surrogateescape"), "sha256").hexdigest()


def image_id(secret: bytes, relative_path: str) -> str:
    """Pseudonym of a file by its path within the source folder: r- and 12 hexadecimal digits."""
    return "r-" + digest(secret, "image", relative_path)[:12]


def shifted(secret: bytes, patient: str, day: date) -> date:
    """`day` moved back by 1 to 3653 days, as many for all days of one patient: intervals stay, the dates do not."""
    return day - timedelta(1 + int(digest(secret, "days", patient), 16) % 3653)


def patient_id(secret: bytes, patient: str) -> str:
    """Pseudonym of a patient: p- and 12 hexadecimal digits."""
    return "p-" + digest(secret, "patient", patient)[:12]
