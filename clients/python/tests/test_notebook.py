"""The notebook runs, and shows its pictures."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"


def test_the_notebook_runs_from_its_first_cell_to_its_last(url: str) -> None:
    notebook = nbformat.read(FOLDER / "first-steps.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    # The kernel inherits MASKCLIP_URL, which the notebook reads.
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3
