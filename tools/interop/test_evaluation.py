"""`maskclip eval` on truths in every form, whose counts have to be those that NumPy and pycocotools have."""

import subprocess
import sys

import pytest
from conftest import REPOSITORY

FORMS = ["values", "colours", "panoptic", "instances", "CVAT", "compare"]


@pytest.fixture(scope="module")
def comparison(program, environment) -> str:
    """What tools/evaluation/photographs.py finds on the example scenes."""
    command = [sys.executable, "tools/evaluation/photographs.py", "--program", program]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("form", FORMS)
def test_the_mean_iou_is_numpys_to_the_last_bit(comparison, form):
    line = next(line for line in comparison.splitlines() if line.startswith(f"{form}: mIoU "))
    assert line.endswith("equal")
