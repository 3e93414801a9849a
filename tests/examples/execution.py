"""Runs an example notebook in a fresh kernel; `python -m tests.examples.execution` writes the outputs into the file."""

from __future__ import annotations

import base64
import struct
import sys
import zlib
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
SECONDS_FOR_A_CELL = 300  # no cell takes more than a few; a machine may be busy


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def executed(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """A copy with the outputs of this machine; the kernel's working directory is `folder`.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    copy = nbformat.from_dict(notebook)
    client = NotebookClient(
        copy,
        timeout=SECONDS_FOR_A_CELL,
        kernel_name="python3",
        coalesce_streams=True,  # else where a stream is cut depends on the moment
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    return copy


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Without what differs from run to run: times, the Python version, random names of cells."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", NotebookNode()
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = NotebookNode()
            if "image/png" in output.get("data", {}):
                picture = base64.b64decode(output.data["image/png"])
                output.data["image/png"] = base64.b64encode(smaller(picture)).decode()
    return notebook


def smaller(picture: bytes) -> bytes:
    """The same pixels: vl-convert deflates them at its fastest level, which makes charts six times as large."""
    chunks, place = [], 8
    while place < len(picture):
        (size,) = struct.unpack_from(">I", picture, place)
        chunks.append((picture[place + 4 : place + 8], picture[place + 8 : place + 8 + size]))
        place += 12 + size
    pixels = zlib.compress(zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT")), 9)
    kept = [chunk for chunk in chunks if chunk[0] in (b"IHDR", b"pHYs")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*kept, (b"IDAT", pixels), (b"IEND", b"")]
    ]
    return picture[:8] + b"".join(parts)


def write_outputs(paths: list[Path]) -> None:
    for path in paths:
        notebook = tidy(executed(read(path), path.parent))
        nbformat.validate(notebook)
        nbformat.write(notebook, path)
        print(f"{path.name}: {len(notebook.cells)} cells, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    write_outputs([Path(name) for name in sys.argv[1:]] or NOTEBOOKS)
