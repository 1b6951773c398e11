"""Rules for the objects that the Airflow chart renders from deploy/helm, and for the recorded facts about the chart."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.reachable import Pod, reaches, selected
from tests.unit.deploy.platform_files import OPEN, PODS, unknown
from tests.unit.deploy.test_kubernetes import model, violations

Document = dict[str, Any]
KINDS = {"ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"}
"""What the chart may make: no Secret, no right, no job, no volume that stays."""
REGISTRY = "registry.example.eu/rempart/"
TOKENS = {"KubernetesExecutor": {"api-server", "scheduler"}, "CeleryExecutor": set[str]()}
"""Components that may have a token of the cluster."""
PORTS = {"api-server": 18080}


class Refused(Exception):
    """Helm rendered nothing: its words."""


@dataclass(frozen=True)
class Chart:
    """The chart as a file, and the helm that renders it."""

    helm: str
    file: Path

    def _helm(self, *words: str, values: Sequence[Path], settings: Sequence[str]) -> str:
        given = [part for value in values for part in ("-f", str(value))] + [
            part for setting in settings for part in ("--set", setting)
        ]
        with tempfile.TemporaryDirectory() as home:
            places = {f"HELM_{name}_HOME": f"{home}/{name.lower()}" for name in ("CACHE", "CONFIG", "DATA")}
            command = [self.helm, *words, "--namespace", "airflow", *given]
            done = subprocess.run(command, env=os.environ | places, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Refused((done.stderr + done.stdout).strip())
        return done.stdout

    def rendered(self, values: Sequence[Path], settings: Sequence[str] = ()) -> list[Document]:
        """What the chart makes of the values, which its schema has judged."""
        text = self._helm("template", "airflow", str(self.file), values=values, settings=settings)
        return [document for document in yaml.safe_load_all(text) if document]

    def lint(self, values: Sequence[Path]) -> str:
        """What `helm lint` says; `Refused` for a warning too."""
        return self._helm("lint", str(self.file), "--strict", values=values, settings=())

    def warnings(self, values: Sequence[Path]) -> list[str]:
        """First sentences of the warnings that `helm install` would print."""
        text = self._helm("install", "airflow", str(self.file), "--dry-run=client", values=values, settings=())
        lines = [line.strip() for line in text.partition("\nNOTES:")[2].splitlines()]
        return [lines[number + 1] for number, line in enumerate(lines[:-1]) if line.endswith("WARNING:")]

    def read(self, name: str) -> str:
        """A file of the chart."""
        if self.file.is_dir():
            return (self.file / name).read_text("utf-8")
        with tarfile.open(self.file) as archive:
            found = archive.extractfile(f"airflow/{name}")
            assert found is not None, name
            return found.read().decode()


def at(values: Mapping[str, Any], place: str) -> Any:
    """The value at a path of keys joined by dots; None where there is none."""
    found: Any = values
    for key in place.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


# --- what is on record about the chart --------------------------------------------------------------------------------


def untrue(facts: Mapping[str, Any], schema: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Facts that are not those of the chart's schema and of its own values."""
    found, opened = list[str](), list[str]()

    def node(described: Mapping[str, Any]) -> Mapping[str, Any]:
        if "$ref" not in described:
            return described
        rest = {key: value for key, value in described.items() if key != "$ref"}
        return {**node(schema["definitions"][described["$ref"].removeprefix("#/definitions/")]), **rest}

    def look(recorded: Any, described: Mapping[str, Any], place: str) -> None:
        described = node(described)
        if isinstance(recorded, Mapping):
            if described.get("additionalProperties") is not False:
                opened.append(place)
            for key, inner in recorded.items():
                below = f"{place}.{key}".lstrip(".")
                if key in described.get("properties", {}):
                    look(inner, described["properties"][key], below)
                else:
                    found.append(f"{below}: not in the schema")
        elif _set(recorded) != _set(described.get("type")):
            found.append(f"{place}: {described.get('type')} in the schema, {recorded} on record")

    look(facts["values"], schema, "")
    found += [f"{place or 'the top'}: takes unknown keys" for place in opened if place not in facts["open"]]
    found += [f"{place}: takes no unknown keys" for place in facts["open"] if place not in opened]
    for place, value in facts["defaults"].items():
        if at(defaults, place) != value:
            found.append(f"{place}: {at(defaults, place)} by default, {value} on record")
    return found


def _set(kinds: Any) -> set[Any]:
    return set(kinds) if isinstance(kinds, list) else {kinds}


# --- what the chart makes ---------------------------------------------------------------------------------------------


def kinds(documents: Iterable[Document], kind: str) -> dict[str, Document]:
    return {document["metadata"]["name"]: document for document in documents if document["kind"] == kind}


def component(deployment: Document) -> str:
    name: str = deployment["spec"]["template"]["metadata"]["labels"]["component"]
    return name


def faults(documents: Sequence[Document], ours: Sequence[Document], secrets: set[str], executor: str) -> list[str]:
    """Every rule that is broken; `ours` is what stands beside the chart, `secrets` what `rempart stack init` makes."""
    found = [
        f"{document['kind']} {document['metadata']['name']}: the chart makes it"
        for document in documents
        if document["kind"] not in KINDS
    ]
    for document in documents:
        if "helm.sh/hook" in (document["metadata"].get("annotations") or {}):
            found.append(f"{document['kind']} {document['metadata']['name']}: a hook")
        found += [f"unknown field {place}" for place in unknown(document, model(document), document["kind"])]
    deployments = kinds(documents, "Deployment")
    for name, deployment in deployments.items():
        found += [f"{name}: {fault}" for fault in pod_faults(deployment["spec"]["template"]["spec"], secrets)]
    config = kinds(documents, "ConfigMap").get("airflow-config", {"data": {}})["data"]
    if template := config.get("pod_template_file.yaml"):
        task = yaml.safe_load(template)["spec"]
        found += [f"a task's pod: {fault}" for fault in pod_faults(task, secrets)]
        if task.get("automountServiceAccountToken") is not False:
            found.append("a task's pod: a token")
    elif executor == "KubernetesExecutor":
        found.append("a task's pod: no template")
    found += _tokens(documents, executor)
    found += _rights(documents, ours)
    found += _budgets(deployments, [*documents, *ours])
    found += _services(deployments, ours)
    found += _ways(deployments, [document for document in [*documents, *ours] if document["kind"] == "NetworkPolicy"])
    return found


def pod_faults(spec: Document, secrets: set[str]) -> Iterator[str]:
    """Where a pod is not restricted, can write without a bound, or is given what is not of us."""
    yield from violations(spec)
    if spec.get("enableServiceLinks") is not False:
        yield "variables of every Service"
    if spec.get("initContainers") or len(spec["containers"]) != 1:
        yield "more than one container"
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for volume in volumes.values():
        if "secret" in volume and volume["secret"]["secretName"] not in secrets:
            yield f"Secret {volume['secret']['secretName']}, which nobody makes"
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"volume {volume['name']} without a bound"
    for container in spec["containers"]:
        if not (container.get("securityContext") or {}).get("readOnlyRootFilesystem"):
            yield "a root that can be written"
        if not container["image"].startswith(REGISTRY) or "@sha256:" not in container["image"]:
            yield f"image {container['image']}"
        if container.get("envFrom") or any("valueFrom" in variable for variable in container.get("env") or ()):
            yield "variables from a Secret or a ConfigMap"
        resources = container.get("resources") or {}
        if "memory" not in resources.get("limits", {}) or "cpu" not in resources.get("requests", {}):
            yield "no bound of memory, or no request of CPU"
        for mount in container["volumeMounts"]:
            if "emptyDir" not in volumes[mount["name"]] and not mount.get("readOnly"):
                yield f"{mount['mountPath']} can be written"


def _tokens(documents: Sequence[Document], executor: str) -> Iterator[str]:
    accounts = kinds(documents, "ServiceAccount")
    deployments = kinds(documents, "Deployment").values()
    used = set()
    for deployment in deployments:
        spec = deployment["spec"]["template"]["spec"]
        used.add(spec["serviceAccountName"])
        account = accounts.get(spec["serviceAccountName"], {}).get("automountServiceAccountToken", True)
        has = spec.get("automountServiceAccountToken", account)
        if has != (component(deployment) in TOKENS[executor]):
            yield f"{deployment['metadata']['name']}: {'a' if has else 'no'} token"
    yield from (f"account {name}: used by nobody" for name in sorted(set(accounts) - used))


def _rights(documents: Sequence[Document], ours: Sequence[Document]) -> Iterator[str]:
    accounts = set(kinds(documents, "ServiceAccount"))
    for name, kind in kinds(ours, "RoleBinding").items():
        for subject in kind["subjects"]:
            if subject["name"] not in accounts:
                yield f"RoleBinding {name}: no account {subject['name']}"


def _budgets(deployments: Mapping[str, Document], documents: Sequence[Document]) -> Iterator[str]:
    for name, deployment in deployments.items():
        replicas, labels = deployment["spec"]["replicas"], deployment["spec"]["template"]["metadata"]["labels"]
        mine = [
            budget["spec"]
            for budget in documents
            if budget["kind"] == "PodDisruptionBudget" and selected(budget["spec"]["selector"], labels)
        ]
        if len(mine) != (1 if replicas > 1 else 0):  # with two for a pod, none can be evicted
            yield f"{name}: {len(mine)} budgets for {replicas} replicas"
        elif mine and not mine[0]["maxUnavailable"] < replicas:
            yield f"{name}: its budget lets every replica go"


def _services(deployments: Mapping[str, Document], ours: Sequence[Document]) -> Iterator[str]:
    for component_name, port in PORTS.items():
        service = kinds(ours, "Service")[component_name]["spec"]
        behind = [
            place["containerPort"]
            for deployment in deployments.values()
            if selected({"matchLabels": service["selector"]}, deployment["spec"]["template"]["metadata"]["labels"])
            for place in deployment["spec"]["template"]["spec"]["containers"][0].get("ports", ())
        ]
        if behind != [port] or service["ports"][0]["targetPort"] != port:
            yield f"Service {component_name}: leads to {behind}"


def _ways(deployments: Mapping[str, Document], policies: Sequence[Document]) -> Iterator[str]:
    """Ways between pods that are open and must not be, or the reverse, with the labels that the chart gives."""
    labels = {
        component(deployment): deployment["spec"]["template"]["metadata"]["labels"]
        for deployment in deployments.values()
    }
    labels["task"] = labels.pop("worker", None) or {"tier": "airflow", "component": "worker", "release": "airflow"}
    pods = PODS | {name: Pod(found) for name, found in labels.items()}
    placed = [{**policy, "metadata": {"namespace": "airflow", **policy["metadata"]}} for policy in policies]
    ways = {
        (source, target, port)
        for source in pods
        for target in pods
        for port in (18080, 15000, 8793, 8794)
        if source != target
        and pods[target].namespace == "airflow"
        and reaches(placed, pods[source], pods[target], port)
    }
    yield from (f"{source} reaches {target} at {port}" for source, target, port in sorted(ways - OPEN))
    yield from (f"{source} does not reach {target} at {port}" for source, target, port in sorted(OPEN - ways))


def schema_of(chart: Chart) -> tuple[Document, Document]:
    """The chart's schema, and its own values."""
    schema: Document = json.loads(chart.read("values.schema.json"))
    values: Document = yaml.safe_load(chart.read("values.yaml"))
    return schema, values
