"""The rules for the Airflow chart notice each fault, on objects such as the chart renders from deploy/helm."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from rempart.deployment.kubernetes import cluster
from tests.chart import Document, faults, untrue
from tests.unit.deploy.platform_files import COMPONENTS, VALUES, every, image

SECRETS = {f"rempart-{name}" for name in (*cluster.SECRETS, "broker")}
NAMES = {name: VALUES[name]["args"][3] for name in COMPONENTS}


def chart_made() -> list[Document]:
    """Objects such as the chart makes of our values, as far as the rules look at them."""
    found: list[Document] = []
    for key, name in NAMES.items():
        values = VALUES[key]
        labels = {"tier": "airflow", "component": name, "release": "airflow"}
        meta = {"name": f"airflow-{name}", "labels": labels}
        account = values["serviceAccount"] | {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}
        container = {
            "name": name,
            "image": image(),
            "securityContext": VALUES["securityContexts"]["containers"],
            "resources": values["resources"],
            "volumeMounts": VALUES["volumeMounts"] + values["extraVolumeMounts"],
            "ports": [{"containerPort": VALUES["ports"]["apiServer"]}] if name == "api-server" else [],
            "env": yaml.safe_load(VALUES["extraEnv"]),
        }
        spec = {
            "serviceAccountName": f"airflow-{name}",
            "enableServiceLinks": VALUES["enableServiceLinks"],
            "securityContext": VALUES["securityContexts"]["pod"],
            "containers": [container],
            "volumes": VALUES["volumes"] + values["extraVolumes"],
        }
        template = {"metadata": {"labels": labels}, "spec": spec}
        deployment = {"replicas": values["replicas"], "selector": {"matchLabels": labels}, "template": template}
        found += [account, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": deployment}]
        if "podDisruptionBudget" in values:
            budget = {"selector": {"matchLabels": labels}} | values["podDisruptionBudget"]["config"]
            found.append({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": budget})
    template = VALUES["podTemplate"].replace('{{ include "airflow_image" . }}', image())
    config = {"metadata": {"name": "airflow-config"}, "data": {"pod_template_file.yaml": template}}
    made = [*found, {"apiVersion": "v1", "kind": "ConfigMap"} | config]
    copied: list[Document] = json.loads(json.dumps(made))  # nothing is shared by two of them
    return copied


def ours() -> list[Document]:
    return [resource for kind in ("Service", "NetworkPolicy", "RoleBinding") for resource in every(kind)]


def named(documents: list[Document], kind: str, name: str) -> Document:
    (found,) = [
        document
        for document in documents
        if document["kind"] == kind and document["metadata"]["name"] == f"airflow-{name}"
    ]
    return found


def pod(documents: list[Document], name: str) -> Any:
    return named(documents, "Deployment", name)["spec"]["template"]["spec"]


def test_no_rule_is_broken_by_our_values() -> None:
    assert faults(chart_made(), ours(), SECRETS, "KubernetesExecutor") == []


def secret(made: list[Document]) -> None:
    made.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "airflow-broker-url"}})


def right(made: list[Document]) -> None:
    made.append({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "launcher"}})


def unused(made: list[Document]) -> None:
    account = {"name": "airflow-worker"}
    made.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})


def hook(made: list[Document]) -> None:
    named(made, "PodDisruptionBudget", "scheduler")["metadata"]["annotations"] = {"helm.sh/hook": "post-install"}


def policy(made: list[Document]) -> None:
    labels = {"tier": "airflow", "component": "triggerer"}
    spec = {
        "podSelector": {},
        "policyTypes": ["Egress", "Ingress"],
        "egress": [{}],
        "ingress": [{"ports": [{"port": 8794}]}],
    }
    meta = {"name": "airflow-open"}
    spec["podSelector"] = {"matchLabels": labels}
    made.append({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec})
    for component in ("api-server", "scheduler"):
        other = copy.deepcopy(made[-1])
        other["spec"]["podSelector"]["matchLabels"]["component"] = component
        made.append(other)


@pytest.mark.parametrize(
    ("break_it", "seen"),
    [
        (secret, "Secret airflow-broker-url: the chart makes it"),
        (right, "Role launcher: the chart makes it"),
        (unused, "account airflow-worker: used by nobody"),
        (hook, "PodDisruptionBudget airflow-scheduler: a hook"),
        (policy, "api-server reaches triggerer at 8794"),
        (lambda made: pod(made, "triggerer").update(automountServiceAccountToken=True), "airflow-triggerer: a token"),
        (lambda made: pod(made, "scheduler").update(automountServiceAccountToken=False), "airflow-scheduler: no token"),
        (
            lambda made: pod(made, "scheduler").pop("enableServiceLinks"),
            "airflow-scheduler: variables of every Service",
        ),
        (
            lambda made: pod(made, "scheduler")["containers"][0].update(image="apache/airflow:3"),
            "image apache/airflow:3",
        ),
        (lambda made: pod(made, "scheduler")["securityContext"].pop("seccompProfile"), "airflow-scheduler: seccomp"),
        (lambda made: pod(made, "scheduler")["containers"][0].pop("resources"), "no bound of memory"),
        (lambda made: pod(made, "scheduler").update(initContainers=[{"name": "wait", "image": "x"}]), "more than one"),
        (lambda made: pod(made, "scheduler")["volumes"].append({"name": "x", "emptyDir": {}}), "x without a bound"),
        (
            lambda made: pod(made, "scheduler").update(runAsRoot=True),
            "unknown field Deployment.spec.template.spec.runAsRoot",
        ),
        (
            lambda made: made.remove(named(made, "PodDisruptionBudget", "triggerer")),
            "airflow-triggerer: 0 budgets for 2",
        ),
        (
            lambda made: made.append(named(made, "PodDisruptionBudget", "triggerer")),
            "airflow-triggerer: 2 budgets for 2",
        ),
        (
            lambda made: made.remove(named(made, "ServiceAccount", "scheduler")),
            "RoleBinding airflow-scheduler: no account",
        ),
        (lambda made: made.remove(named(made, "ConfigMap", "config")), "a task's pod: no template"),
        (lambda made: pod(made, "api-server")["containers"][0].update(ports=[]), "Service api-server: leads to []"),
    ],
)
def test_each_rule_sees_its_fault(break_it: Callable[[list[Document]], object], seen: str) -> None:
    made = chart_made()
    break_it(made)
    found = faults(made, ours(), SECRETS, "KubernetesExecutor")
    assert any(seen in fault for fault in found), found


def test_a_secret_that_nobody_makes_is_seen() -> None:
    assert "airflow-scheduler: Secret rempart-scheduler, which nobody makes" in faults(
        chart_made(), ours(), SECRETS - {"rempart-scheduler"}, "KubernetesExecutor"
    )


def test_what_is_on_record_is_held_against_the_schema() -> None:
    schema = {
        "properties": {
            "port": {"type": "integer"},
            "part": {"$ref": "#/definitions/a.part"},
            "rest": {"type": "object"},
        },
        "definitions": {"a.part": {"properties": {"on": {"type": "boolean"}}, "additionalProperties": False}},
    }
    facts = {"values": {"port": "integer", "part": {"on": "boolean"}}, "open": [""], "defaults": {"part.on": True}}
    assert untrue(facts, schema, {"part": {"on": True}}) == []
    wrong = {"values": {"port": "string", "part": {"of": "boolean"}}, "open": ["part"], "defaults": {"part.on": False}}
    assert untrue(wrong, schema, {"part": {"on": True}}) == [
        "port: integer in the schema, string on record",
        "part.of: not in the schema",
        "the top: takes unknown keys",
        "part: takes no unknown keys",
        "part.on: True by default, False on record",
    ]
