"""The README's pictures: of each cell with a tag `picture-NAME` the first figure, from the notebooks as committed."""

from base64 import b64decode
from pathlib import Path

import cv2
import nbformat
import numpy as np

from pneumo_nb import paths

WIDTH, QUALITY = 900, 85  # pixels, and of the JPG: three pictures come to less than 400 kB


def make(notebooks: Path) -> list[Path]:
    """Write `notebooks`/pictures/NAME.jpg; returns them. A ValueError names a tagged cell that shows no figure."""
    made = []
    for source in sorted(notebooks.glob("[0-9][0-9]_*.ipynb")):
        for cell in nbformat.read(source, as_version=4).cells:
            for tag in (tag for tag in cell.metadata.get("tags", []) if tag.startswith("picture-")):
                shown = [out.get("data", {}) for out in cell.outputs]
                figures = [data[kind] for data in shown for kind in ("image/png", "image/jpeg") if kind in data]
                if not figures:
                    raise ValueError(f"{source.name}: the cell with the tag {tag} shows no figure")
                picture = cv2.imdecode(np.frombuffer(b64decode(figures[0]), np.uint8), cv2.IMREAD_COLOR)
                size = WIDTH, round(picture.shape[0] * WIDTH / picture.shape[1])
                fitting = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
                made.append(notebooks / "pictures" / f"{tag.removeprefix('picture-')}.jpg")
                with paths.whole(made[-1]) as file:
                    file.write_bytes(cv2.imencode(".jpg", fitting, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())
    return made


if __name__ == "__main__":
    print(*make(paths.notebooks()), sep="\n")
