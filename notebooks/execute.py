"""Execute the chapters and store what they show: ``python notebooks/execute.py [01_k_space_to_image ...]``.

Each ``.py`` runs in a fresh kernel, and its ``.ipynb`` is written anew. Pictures are stored with 256 colours, which
loses nothing of grey images and takes a third of the bytes.
"""

import base64
import io
import sys
import time
import warnings
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).parent
SECONDS = 600  # at most for a cell; a whole chapter takes less than two minutes on two cores


def execute(path: Path) -> NotebookNode:
    """Run a chapter ``.py`` in a fresh kernel and return the notebook with its outputs.

    Raises
    ------
    nbclient.exceptions.CellExecutionError : if a cell fails; a claim that does not hold is one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the Jupyter libraries
        notebook = jupytext.read(path)
        folder = {"metadata": {"path": str(FOLDER)}}
        client = NotebookClient(
            notebook, timeout=SECONDS, startup_timeout=SECONDS, resources=folder, record_timing=False
        )
        client.execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # a random one would change with every run
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = _smaller(output["data"]["image/png"])
    notebook.metadata.pop("language_info", None)  # the version of Python
    return notebook


def _smaller(png: str) -> str:
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    red, green, blue = image.split()
    grey = red.tobytes() == green.tobytes() == blue.tobytes()
    small, file = (
        red if grey else image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE),
        io.BytesIO(),
    )
    small.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main() -> None:
    """Execute the chapters named on the command line, or all."""
    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("[0-9]*.py")):
        path, start = FOLDER / f"{Path(name).stem}.py", time.perf_counter()
        if not path.is_file():
            sys.exit(f"there is no chapter {path.name}; leave the name out to execute all of {FOLDER}")
        target = path.with_suffix(".ipynb")
        jupytext.write(execute(path), target)
        print(f"{target.name}: {time.perf_counter() - start:.0f} s, {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
