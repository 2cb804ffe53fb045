#!/usr/bin/env python3
"""Prints the software bill of materials of a release as CycloneDX 1.5, JSON: sbom.py [cpu|cuda]

It has the crates that are compiled into the program for this platform, with the digests of Cargo.lock, and the wheels whose
libraries lie beside it, with the digests of tools/libtorch. Generators for crates leave the latter out, and they are nine
tenths of a release. The same sources give the same text.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
TARGET = "x86_64-unknown-linux-gnu"


def crates() -> tuple[dict, list[dict]]:
    """The component of this package, and those of the crates that it needs to be built and to run."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET]
    metadata = json.loads(subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, check=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    needed, waiting = set(), [root]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            edges = nodes[name]["deps"]
            waiting += [edge["pkg"] for edge in edges if any(kind["kind"] != "dev" for kind in edge["dep_kinds"])]
    lock = tomllib.loads((HERE / "Cargo.lock").read_text())["package"]
    digests = {(package["name"], package["version"]): package.get("checksum") for package in lock}
    components = []
    for package in sorted((packages[name] for name in needed - {root}), key=lambda package: (package["name"], package["version"])):
        name, version = package["name"], package["version"]
        component = {"type": "library", "name": name, "version": version, "purl": f"pkg:cargo/{name}@{version}"}
        component["bom-ref"] = component["purl"]
        if package["license"]:
            component["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        if digest := digests[name, version]:
            component["hashes"] = [{"alg": "SHA-256", "content": digest}]
        components.append(component)
    own = packages[root]
    purl = f"pkg:cargo/{own['name']}@{own['version']}"
    return {"type": "application", "bom-ref": purl, "name": own["name"], "version": own["version"], "purl": purl,
            "licenses": [{"expression": own["license"]}]}, components


def wheels(flavour: str) -> list[dict]:
    """The components of the wheels that libtorch and NVIDIA's libraries are taken from, for x86-64."""
    components = []
    for file in ["requirements-cpu.txt"] + (["requirements-cuda.txt"] if flavour == "cuda" else []):
        text = (HERE / "tools" / "libtorch" / file).read_text().replace("\\\n", " ")
        for line in text.splitlines():
            if line and not line.startswith("#"):
                requirement, digest, *_ = line.split()
                name, version = requirement.split("==")
                purl = f"pkg:pypi/{name}@{version}"
                hashes = [{"alg": "SHA-256", "content": digest.removeprefix("--hash=sha256:")}]
                components.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl, "hashes": hashes})
    return components


def main() -> None:
    flavour = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    own, components = crates()
    components += wheels(flavour)
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": own},
        "components": components,
        "dependencies": [{"ref": own["bom-ref"], "dependsOn": [component["bom-ref"] for component in components]}],
    }
    digest = hashlib.sha256(json.dumps(bom).encode()).hexdigest()
    bom["serialNumber"] = f"urn:uuid:{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-8{digest[17:20]}-{digest[20:32]}"
    json.dump(bom, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
