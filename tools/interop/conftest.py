"""What all groups of tests share: the program under test, and a way to run it without anybody's settings."""

import os
import pathlib
import subprocess
import time
import urllib.error
import urllib.request

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


@pytest.fixture(scope="session")
def serve(program, environment, tmp_path_factory):
    """Starts servers of the program, with arguments and settings of their own, and returns the address of each."""
    servers = []

    def start(*arguments, **settings) -> str:
        folder = tmp_path_factory.mktemp("server")
        command = [program, "serve", "--listen", "127.0.0.1:0", "--device", "cpu", *map(str, arguments)]
        with (folder / "out").open("w") as out, (folder / "log").open("w") as log:
            process = subprocess.Popen(command, env=environment | settings, cwd=REPOSITORY, stdout=out, stderr=log)
        servers.append(process)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            for line in (folder / "out").read_text().splitlines():
                address = line.removeprefix("listening on ")
                if address != line and is_ready(address):
                    return address
            time.sleep(0.05)
        raise AssertionError(f"the server does not answer:\n{(folder / 'log').read_text()}")

    yield start
    for server in servers:
        server.terminate()
    for server in servers:
        assert server.wait(timeout=60) == 0


def is_ready(address: str) -> bool:
    """Whether the server's models answer."""
    try:
        with urllib.request.urlopen(f"{address}/health/ready", timeout=10) as reply:
            return reply.status == 200
    except urllib.error.HTTPError:
        return False


@pytest.fixture(scope="session")
def server(serve) -> str:
    """The address of a server on the embedded model."""
    return serve("--model", "demo", MASKCLIP_DEFAULTS__TEMPLATES="simple")


@pytest.fixture(scope="session")
def picnic() -> bytes:
    """The example scene with a tiger, a lemon, a hamburger, a penguin, a strawberry and a sunflower."""
    return (REPOSITORY / "examples" / "picnic.png").read_bytes()
