"""The server under test: `tools/clients/run` starts it and names its address."""

import os
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="session")
def url() -> str:
    return os.environ["MASKCLIP_URL"]


@pytest.fixture(scope="session")
def picture() -> Path:
    return EXAMPLES / "fruit.png"
