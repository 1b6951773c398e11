"""A pool in which the doctor finds no fault, and the findings in other pools."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

from rempart.settings.config import Config
from rempart.sovereignty.pods import REGION
from rempart.training.kubernetes import doctor
from rempart.training.kubernetes.facts import (
    ENTRY_POINT,
    Namespace,
    NetworkPolicy,
    Node,
    PoolFacts,
    PoolFinding,
    Probe,
    Quota,
    Reached,
)
from rempart.training.kubernetes.queue import LocalQueue
from rempart.training.kubernetes.rights import DANGEROUS, REQUIRED, Rule, needed

TODAY = date(2026, 11, 24)
GPU = "nvidia.com/gpu"
RULE = {"jurisdictions": ["EU"], "owner_jurisdictions": ["EU"]}


def operator(country: str, *services: str) -> dict[str, Any]:
    seat = {"jurisdiction": country, "owner_jurisdiction": country}
    made = {name: {"runs_on": [country.lower()]} for name in services}
    return {**seat, "regions": {"par": {"country": country}}, "services": made}


POOL: dict[str, Any] = {
    "operator": "fr",
    "region": "par",
    "kubernetes_connection": "k8s",
    "namespace": "training",
    "max_gpus": 2,
    "quota": 4,
    "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
}


def configured(**pool: Any) -> Config:
    return Config.model_validate(
        {
            "operators": {
                "fr": operator("FR", "managed-kubernetes", "container-registry", "object-storage"),
                "us": operator("US", "managed-kubernetes", "container-registry"),
                "aws": operator("US", "managed-kubernetes"),
            },
            "sites": {"home": {"operator": "fr", "region": "par", "connection": "s3"}},
            "active_site": "home",
            "machine": {"operator": "fr", "service": "object-storage", "region": "par"},
            "policy": {"internal": RULE, "personal": RULE, "sensitive": RULE | {"qualifications": ["SecNumCloud-3.2"]}},
            "retention": {},
            "registries": {"good.example.eu": {"operator": "fr", "region": "par"}},
            "gpu_pools": {"a": POOL | pool},
            "training": {"image": f"good.example.eu/rempart@sha256:{'a' * 64}"},
            "backup": {"site": "home"},
        }
    )


CONFIG = configured()
NODE = Node("gpu-1", {REGION: "par"}, 4, ((GPU, "", "NoSchedule"),))
ROLE = tuple(Rule(right.verbs, (right.group,), (right.resource,)) for right in REQUIRED)
CLUSTER_ROLE = tuple(Rule(right.verbs, (right.group,), (right.resource,)) for right in REQUIRED if right.cluster)
CLOSED = NetworkPolicy("rempart-default-deny", True, ("Ingress", "Egress"))
HEALTHY = PoolFacts(
    server="https://k8s.example.eu:6443",
    version="v1.34.0",
    may=dict.fromkeys(needed(), True) | dict.fromkeys(DANGEROUS, False),
    rules=ROLE,
    rules_elsewhere=CLUSTER_ROLE,
    namespace=Namespace({doctor.PROFILE: "restricted"}),
    quotas=(Quota("q", {f"requests.{GPU}": "4"}, {f"requests.{GPU}": "1"}),),
    nodes=(NODE, Node("plain", {REGION: "par"})),
    used={"gpu-1": 1},
    policies=(CLOSED, NetworkPolicy("rempart-egress", True, ("Egress",))),
    priority_class=True,
    queue=LocalQueue(True, "Ready: Can submit new workloads to localQueue"),
    runtime=(),
    probe=Probe(
        *("doctor-1", True, "exit status 0", "gpu-1"),
        (Reached(ENTRY_POINT, True, "ready"), Reached("https://s3.example.eu", True, "HTTP 403")),
    ),
)


COMMAND = re.compile(r"`(kubectl|rempart|docker|make) [^`]+`")
"""A command that a reader can run."""


def findings(facts: PoolFacts, config: Config = CONFIG) -> dict[str, PoolFinding]:
    found = doctor.judge(config, "a", facts, on=TODAY)
    assert all(finding.remedy for finding in found if finding.outcome in ("FAIL", "warn")), found
    assert all(COMMAND.search(finding.remedy) for finding in found if finding.outcome == "FAIL"), found
    worst = {"FAIL": 0, "warn": 1, "not run": 2, "ok": 3}
    return {
        reported.check: reported for reported in sorted(found, key=lambda finding: worst[finding.outcome], reverse=True)
    }


def fails(facts: PoolFacts, config: Config = CONFIG) -> set[str]:
    return {check for check, finding in findings(facts, config).items() if finding.outcome == "FAIL"}
