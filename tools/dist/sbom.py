#!/usr/bin/env python3
"""Prints the software bill of materials of a release as CycloneDX 1.5, JSON: sbom.py [cpu|cuda]

It has the crates that are compiled into the program for this platform, with the digests of Cargo.lock, and the wheels whose
libraries lie beside it, with the digests of tools/libtorch. Generators for crates leave the latter out, and they are nine
tenths of a release. The same sources give the same text.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tomllib

import crates

NVIDIA_TERMS = "NVIDIA Software License Agreement"
"""Of every wheel but torch's."""


def licensed(expression: str | None) -> dict:
    """A component's field for its licence, if it is known."""
    return {"licenses": [{"expression": expression}]} if expression else {}


def program() -> tuple[dict, list[dict]]:
    """The component of this package, and those of the crates in it."""
    lock = tomllib.loads((crates.REPOSITORY / "Cargo.lock").read_text())["package"]
    digests = {(package["name"], package["version"]): package.get("checksum") for package in lock}
    own, packages = crates.resolved()
    components = []
    for package in packages:
        name, version = package["name"], package["version"]
        purl = f"pkg:cargo/{name}@{version}"
        component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        component |= licensed(crates.expression(package))
        if digest := digests[name, version]:
            component["hashes"] = [{"alg": "SHA-256", "content": digest}]
        components.append(component)
    purl = f"pkg:cargo/{own['name']}@{own['version']}"
    component = {"type": "application", "bom-ref": purl, "name": own["name"], "version": own["version"], "purl": purl}
    return component | licensed(own["license"]), components


def wheels(flavour: str) -> list[dict]:
    """The components of the wheels that libtorch and NVIDIA's libraries are taken from, for x86-64."""
    components = []
    for file in ["requirements-cpu.txt"] + (["requirements-cuda.txt"] if flavour == "cuda" else []):
        text = (crates.REPOSITORY / "tools" / "libtorch" / file).read_text().replace("\\\n", " ")
        for line in text.splitlines():
            if line and not line.startswith("#"):
                requirement, digest, *_ = line.split()
                name, version = requirement.split("==")
                purl = f"pkg:pypi/{name}@{version}"
                hashes = [{"alg": "SHA-256", "content": digest.removeprefix("--hash=sha256:")}]
                component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
                terms = licensed("BSD-3-Clause") if name == "torch" else {"licenses": [{"license": {"name": NVIDIA_TERMS}}]}
                components.append(component | terms | {"hashes": hashes})
    return components


def main() -> None:
    flavour = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    own, components = program()
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
