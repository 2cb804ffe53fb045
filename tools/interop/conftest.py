"""What all groups of tests share: the program under test, and a way to run it without anybody's settings."""

import os
import pathlib
import subprocess

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def program() -> str:
    """The path of the program under test."""
    return os.environ["MASKCLIP"]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment of the program: no settings but those of the tests, and no store on disk."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MASKCLIP_")}
    return kept | {"MASKCLIP_VOCABULARY__STORE_PATH": "none"}


@pytest.fixture(scope="session")
def maskclip(program, environment):
    """Runs a command of the program in the root of the repository and returns what it printed."""

    def run(*arguments, status=0) -> str:
        command = [program, *map(str, arguments)]
        done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == status, f"{command}: {done.returncode}\n{done.stderr}"
        return done.stdout

    return run
