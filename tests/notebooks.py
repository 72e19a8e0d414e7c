"""The notebooks of docs/notebooks, executed: a notebook that runs is one whose assertions hold.

    python tests/notebooks.py                   # all, with the seconds that each takes
    python tests/notebooks.py digits --pictures # one; its picture to docs/images/notebooks/

The picture is what the cell with the tag `picture` shows.
"""

import argparse
import base64
import io
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

import jupytext
import nbclient
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "docs" / "notebooks").glob("*.py"))
PICTURES = ROOT / "docs" / "images" / "notebooks"


def execute(source: pathlib.Path, folder: pathlib.Path, timeout: int = 3_600) -> Any:
    """The notebook of a source with its outputs, executed in a folder.

    Raises nbclient's CellExecutionError where a cell fails. timeout: of each cell, in seconds.
    """
    notebook = jupytext.read(source)
    client = nbclient.NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    env.pop("XLA_FLAGS", None)  # the eight devices of the tests
    client.execute(env=env)
    return notebook


def picture(notebook: Any) -> Image.Image:
    """What the one cell with the tag `picture` shows, in few colors, so that its file is small."""
    (cell,) = (c for c in notebook.cells if "picture" in c.metadata.get("tags", []))
    (png,) = (o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {}))
    shown = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    return shown.quantize(64, dither=Image.Dither.NONE)


def printed(notebook: Any) -> str:
    """What its cells printed."""
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="of notebooks; none: all")
    parser.add_argument("--pictures", action="store_true", help="write docs/images/notebooks/")
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the executed notebooks")
    arguments = parser.parse_args()
    for source in SOURCES:
        if arguments.names and source.stem not in arguments.names:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(source, pathlib.Path(folder))
        print(printed(notebook), f"{source.stem}: {time.monotonic() - began:.0f} s\n", sep="\n")
        if arguments.pictures:
            PICTURES.mkdir(parents=True, exist_ok=True)
            picture(notebook).save(PICTURES / f"{source.stem}.png", optimize=True)
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            jupytext.write(notebook, arguments.keep / f"{source.stem}.ipynb")


if __name__ == "__main__":
    sys.exit(main())
