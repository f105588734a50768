"""Names that tell nothing to whoever lacks the key: the same input and key give the same name on every machine."""

import hmac
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from pneumo_nb import paths


def key() -> bytes:
    """The secret of this project folder, made on first use and readable by its owner only.

    It appears whole or not at all, so that two processes starting together agree. A file that holds anything but
    64 hexadecimal digits is refused, because new pseudonyms would not join with the old.
    """
    path = paths.pseudonym_key()
    if not path.exists():
        with paths.writing(path):
            _make(path)
    text = path.read_text(errors="replace").strip()
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError(f"{path.name} must hold 64 hexadecimal digits: restore it, or remove it to start anew")
    return bytes.fromhex(text)


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # the name is taken: the first process wins
            os.link(beside, path)
    finally:
        beside.unlink()


def digest(secret: bytes, kind: str, content: bytes) -> str:
    """HMAC-SHA256 in hexadecimal; `kind` keeps, say, a patient and a file of one name apart."""
    return hmac.new(secret, kind.encode() + b"\0" + content, "sha256").hexdigest()


def image_id(secret: bytes, relative_path: bytes) -> str:
    """Pseudonym of a file by its path within the source folder: r- and 12 hexadecimal digits."""
    return "r-" + digest(secret, "image", relative_path)[:12]


def patient_id(secret: bytes, patient: str) -> str:
    """Pseudonym of a patient: p- and 12 hexadecimal digits."""
    return "p-" + digest(secret, "patient", patient.encode("utf-8", "surrogateescape"))[:12]
