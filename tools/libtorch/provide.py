#!/usr/bin/env python3
"""Provides libtorch for the tch crate.

    provide.py                  prints libtorch's folder, and nothing else on standard output
    provide.py COMMAND [...]    runs the command with LIBTORCH set to that folder

libtorch comes from PyPI's torch wheel. pip fetches the wheel and checks its digest (requirements-*.txt beside this
file). Only the headers and the shared libraries are unpacked, once per user, into

    ${LIBTORCH_CACHE:-${XDG_CACHE_HOME:-~/.cache}/maskclip}/libtorch-<version>-<flavour>-<architecture>

Environment:
    LIBTORCH          a libtorch of your own: it is checked for presence and used as it is
    LIBTORCH_FLAVOUR  cpu (default, 0.5 GB on disk) or cuda (4 GB: also the CUDA parts and NVIDIA's libraries)
    LIBTORCH_CACHE    where to unpack

One rename puts the folder in place, so it is whole or absent. A lock makes concurrent runs wait for the first. The next
run reuses the wheels that an interrupted run has finished. This script needs Python 3.8 with pip, and a C compiler.
"""

from __future__ import annotations

import fcntl
import fnmatch
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

VERSION = "2.13.0"  # the version that tch 0.26.0 binds to; change it together with requirements-*.txt
FLAVOURS = ("cpu", "cuda")
ARCHITECTURES = ("x86_64", "aarch64")  # aarch64 works the same way, untested
HERE = Path(__file__).resolve().parent

# Files of torch/lib that only Python needs, and files that only CUDA needs.
PYTHON_ONLY = ("libtorch_python.so", "libshm.so", "libtorch_global_deps.so")
CUDA_ONLY = ("libtorch.so", "libtorch_cuda*.so", "libtorch_nvshmem.so", "libc10_cuda.so", "libcaffe2_nvrtc.so")
# The two libraries of NVIDIA's wheels that libtorch needs even in its CPU flavour.
NVIDIA_FOR_CPU = ("libcudart.so.13", "libcupti.so.13")

MANUAL = f"""\
Provide libtorch {VERSION} yourself and name its folder (the one that holds include/ and lib/):
    export LIBTORCH=/path/to/libtorch
It must be version {VERSION} exactly, for example `pip install torch=={VERSION}` in a virtual environment and
    export LIBTORCH=$(python3 -c 'import torch, pathlib; print(pathlib.Path(torch.__file__).parent)')"""


class Refusal(Exception):
    """An error that the user can act on; it is shown without a traceback."""


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main() -> Path:
    """Returns libtorch's folder; provides libtorch first if it is missing."""
    if own := os.environ.get("LIBTORCH"):
        return check_own(Path(own))
    flavour = os.environ.get("LIBTORCH_FLAVOUR") or "cpu"
    if flavour not in FLAVOURS:
        raise Refusal(f"LIBTORCH_FLAVOUR is {flavour!r}; it can be {' or '.join(FLAVOURS)}")
    architecture = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
    target = cache_folder() / f"libtorch-{VERSION}-{flavour}-{architecture}"
    if not target.is_dir():
        refuse_unsupported(architecture)
        provide(target, flavour, architecture)
    return target


def check_own(folder: Path) -> Path:
    """Checks the user's own LIBTORCH for presence. torch-sys checks its version."""
    for part in ("include/torch", "lib/libtorch_cpu.so"):
        if not (folder / part).exists():
            raise Refusal(f"LIBTORCH is {folder}, but {folder / part} does not exist.\n"
                          "Correct it, or unset it to have libtorch provided.")
    return folder


def cache_folder() -> Path:
    if cache := os.environ.get("LIBTORCH_CACHE"):
        return Path(cache).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "maskclip"


def refuse_unsupported(architecture: str) -> None:
    if platform.system() != "Linux" or architecture not in ARCHITECTURES:
        raise Refusal(f"libtorch is provided for Linux on {' and '.join(ARCHITECTURES)}; "
                      f"this is {platform.system()} on {architecture}.\n{MANUAL}")
    name, version = (platform.libc_ver() + ("", ""))[:2]
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 28):
        raise Refusal(f"The torch wheel needs glibc 2.28 or newer; this system has {name or 'another C library'} {version}.\n{MANUAL}")
    if architecture == "aarch64":
        say("note: libtorch on aarch64 takes the same route as on x86-64 but has not been tested by this project")


def provide(target: Path, flavour: str, architecture: str) -> None:
    """Downloads libtorch, unpacks it and puts it in place, while this process holds the lock."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.parent / f".{target.name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another run that is providing libtorch")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return
        staging = target.parent / f".{target.name}.partial"
        root = staging / "root"
        shutil.rmtree(root, ignore_errors=True)
        require_space(target.parent, gigabytes={"cpu": 2, "cuda": 8}[flavour])
        say(f"Providing libtorch {VERSION} ({flavour}, {architecture}), once per user, in {target}")
        wheels = download(staging / "wheels", staging / "temporary", flavour, architecture)
        say(f"Unpacking {len(wheels)} wheels")
        for wheel in wheels:
            unpack(wheel, root, flavour)
        complete(root, flavour)
        check_loads(root, flavour, architecture)
        root.rename(target)
        shutil.rmtree(staging, ignore_errors=True)


def require_space(folder: Path, gigabytes: int) -> None:
    if shutil.disk_usage(folder).free < gigabytes * 1e9:
        raise Refusal(f"{folder} has less than {gigabytes} GB free; LIBTORCH_CACHE can name another folder")


def requirements(flavour: str) -> list[str]:
    """The pinned requirements of a flavour, one logical line each."""
    files = ["requirements-cpu.txt"] + (["requirements-cuda.txt"] if flavour == "cuda" else [])
    text = "".join((HERE / name).read_text() for name in files)
    lines = text.replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and not line.startswith("#")]


def download(folder: Path, temporary: Path, flavour: str, architecture: str) -> list[Path]:
    """Lets pip fetch each wheel into `folder`. pip checks wheels again that an earlier run left there.

    Platform, Python and ABI are fixed, because libtorch does not depend on them. So every Python that runs this gets
    the same wheel with the same digest.
    """
    shutil.rmtree(temporary, ignore_errors=True)
    for needed in (folder, temporary):
        needed.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        raise Refusal(f"{sys.executable} has no pip: install it (on Debian and Ubuntu: apt-get install python3-pip) and try again")
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check"]
    options += ["--implementation=cp", "--python-version=3.11", "--abi=cp311", f"--platform=manylinux2014_{architecture}"]
    options += [f"--platform=manylinux_2_{minor}_{architecture}" for minor in range(28, 16, -1)]
    options += [] if sys.stderr.isatty() else ["--quiet"]
    # pip's temporary files go to the same file system, because /tmp can be small.
    environment = {**os.environ, "TMPDIR": str(temporary), "PIP_REQUIRE_VIRTUALENV": "0"}
    wheels = []
    for requirement in requirements(flavour):
        name = requirement.split()[0]
        say(f"Downloading {name}")
        pinned = temporary / "requirement.txt"
        pinned.write_text(requirement + "\n")
        command = [*pip, "download", *options, f"--dest={folder}", f"--requirement={pinned}"]
        if subprocess.run(command, env=environment, stdout=sys.stderr.fileno()).returncode:
            raise Refusal(f"pip could not download {name} with the digest this project pins; its message is above.\n"
                          "No network, or an index or mirror without that wheel: correct that and run this again.\n"
                          "A digest that does not match: do not use the file; somebody changed it on its way, or the index did.")
        package, version = name.split("==")
        wheels += folder.glob(f"{package.replace('-', '_')}-{version}-*.whl")
    return wheels


def unpack(wheel: Path, root: Path, flavour: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            destination = placed(PurePosixPath(member.filename), flavour)
            if destination is None or member.is_dir():
                continue
            path = root / destination
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(path, "wb") as output:
                shutil.copyfileobj(source, output, 1 << 20)


def placed(member: PurePosixPath, flavour: str) -> PurePosixPath | None:
    """The place of a wheel's file in libtorch's folder, or None to leave it out. All libraries go into one lib/."""
    parts, name = member.parts, member.name
    unwanted = PYTHON_ONLY + (CUDA_ONLY if flavour == "cpu" else ())
    if parts[:2] == ("torch", "include"):
        return PurePosixPath(*parts[1:])
    if parts[:2] == ("torch", "lib") and ".so" in name:
        return None if any(fnmatch.fnmatch(name, pattern) for pattern in unwanted) else PurePosixPath("lib", name)
    if parts[0] == "nvidia" and parts[2:3] == ("lib",) and ".so" in name:
        return PurePosixPath("lib", name) if flavour == "cuda" or name in NVIDIA_FOR_CPU else None
    if parts[0].endswith(".dist-info") and "licenses" in parts:
        return PurePosixPath("licenses", parts[0][: -len(".dist-info")], *parts[parts.index("licenses") + 1 :])
    if parts[0] == "nvidia" and name == "LICENSE.txt":
        return PurePosixPath("licenses", parts[1], name)
    return None


def complete(root: Path, flavour: str) -> None:
    """Adds what a wheel lacks: the version for torch-sys, names for the linker, the CPU flavour's libtorch.so."""
    (root / "build-version").write_text(VERSION + "\n")
    libraries = root / "lib"
    (libraries / "libgomp.so").symlink_to("libgomp.so.1")  # for compilers without their own OpenMP runtime
    if flavour == "cuda":
        return
    # The wheel's libtorch.so is empty, but needs libtorch_cuda.so. An empty one that does not need it takes its place.
    command = [*os.environ.get("CC", "cc").split(), "-shared", "-nostdlib", "-Wl,-soname,libtorch.so"]
    try:
        built = subprocess.run([*command, "-o", str(libraries / "libtorch.so"), "-x", "c", os.devnull], stdout=sys.stderr.fileno())
    except FileNotFoundError:
        raise Refusal(f"No C compiler: {command[0]} was not found (on Debian and Ubuntu: apt-get install g++)") from None
    if built.returncode:
        raise Refusal("The C compiler could not link a shared library; its message is above")


def check_loads(root: Path, flavour: str, architecture: str) -> None:
    """Loads the libraries as the dynamic linker will, so that an incomplete folder is never put in place."""
    if architecture != platform.machine():
        return  # unpacked for another machine
    library = root / "lib" / ("libtorch_cuda.so" if flavour == "cuda" else "libtorch_cpu.so")
    program = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    loaded = subprocess.run([sys.executable, "-c", program, str(library)], stderr=subprocess.PIPE, text=True)
    if loaded.returncode:
        raise Refusal(f"libtorch was unpacked but does not load: {loaded.stderr.strip().splitlines()[-1:]}")


if __name__ == "__main__":
    try:
        folder = main()
        if command := sys.argv[1:]:
            os.execvpe(command[0], command, {**os.environ, "LIBTORCH": str(folder)})
        print(folder)
    except Refusal as refusal:
        sys.exit(f"error: {refusal}")
    except OSError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; running it again goes on from the wheels that are complete")
