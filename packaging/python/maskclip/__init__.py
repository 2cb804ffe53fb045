"""Starts the program `maskclip` on the libtorch of the installed torch wheel."""

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

TORCH = "2.13.0"
"""The version of libtorch that the program is linked against."""


def libraries() -> Path:
    """The folder of torch's libraries. Python does not load them."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        sys.exit(f"maskclip: there is no torch in this Python: pip install torch=={TORCH}")
    version = importlib.metadata.version("torch").partition("+")[0]
    if version != TORCH:
        sys.exit(f"maskclip: torch is {version}, and the program needs {TORCH}: pip install torch=={TORCH}")
    return Path(spec.origin).parent / "lib"


def main() -> None:
    """Replaces this process by the program, with the same arguments."""
    program = Path(__file__).with_name("program")
    paths = [str(libraries()), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    os.execve(program, ["maskclip", *sys.argv[1:]], {**os.environ, "LD_LIBRARY_PATH": ":".join(paths)})
