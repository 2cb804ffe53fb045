"""Checks objects of Kubernetes and of those who extend it by their published schemas; an unknown field is an error.

Kubernetes' own kinds by kubernetes-validate, KEDA's and the Prometheus operator's by cloudcoil's models, KServe's by
the models of its Python package, the Gateway API's HTTPRoute by the schema beside this file.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

VERSIONS = ("1.31", "1.37")
"""The oldest version of Kubernetes that the chart is for, and the newest that has a schema here."""

MODELS = {
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
}
SCHEMAS = {"gateway.networking.k8s.io/v1": "httproute.json"}


def check(thing: dict[str, Any]) -> None:
    """Raises an error if the object does not fit the schema of its kind."""
    version, kind = thing["apiVersion"], thing["kind"]
    if version in MODELS:
        _check_model(getattr(importlib.import_module(MODELS[version]), kind), thing)
    elif version in SCHEMAS:
        schema = json.loads((Path(__file__).parent / SCHEMAS[version]).read_text())
        jsonschema.validate(thing, schema)
    elif version.startswith("serving.kserve.io/"):
        _check_kserve(f"{version.split('/')[1].capitalize()}{kind}", thing, kind)
    else:
        for kubernetes in VERSIONS:
            kubernetes_validate.validate(thing, kubernetes, strict=True)


def _check_model(model: Any, thing: dict[str, Any]) -> None:
    read = model.model_validate(thing).model_dump(by_alias=True, exclude_unset=True, mode="json")
    for path in _paths(thing):
        assert path in set(_paths(read)), f"{thing['kind']} has no {path}"


def _paths(value: Any, path: str = "") -> list[str]:
    if isinstance(value, dict):
        return [deep for key, one in value.items() for deep in [f"{path}.{key}", *_paths(one, f"{path}.{key}")]]
    if isinstance(value, list):
        return [deep for number, one in enumerate(value) for deep in _paths(one, f"{path}[{number}]")]
    return []


@cache
def _kserve(name: str) -> dict[str, str] | None:
    """The fields of a model of KServe's package by their names in JSON, with their types; None for another's model.

    The sources are read, not run: they import packages that only a server needs.
    """
    package = importlib.util.find_spec("kserve")
    assert package and package.submodule_search_locations
    file = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    path = Path(package.submodule_search_locations[0]) / "models" / f"{file}.py"
    if not path.exists():
        return None
    tables = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Dict):
            tables[node.targets[0].id] = ast.literal_eval(node.value)
    return {json_name: tables["openapi_types"][own] for own, json_name in tables["attribute_map"].items()}


def _check_kserve(kind: str, value: Any, path: str) -> None:
    fields = _kserve(kind)
    if fields is None:
        return
    assert isinstance(value, dict), f"{path} is an object"
    for key, one in value.items():
        assert key in fields, f"{path} has no {key}"
        inner = fields[key]
        if listed := re.fullmatch(r"list\[(.+)\]", inner):
            assert isinstance(one, list), f"{path}.{key} is a list"
            for number, item in enumerate(one):
                _check_kserve(listed[1], item, f"{path}.{key}[{number}]")
        elif inner in ("str", "int", "bool", "float"):
            assert isinstance(one, {"str": str, "int": int, "bool": bool, "float": (int, float)}[inner]), f"{path}.{key} is a {inner}"
        else:
            _check_kserve(inner, one, f"{path}.{key}")
