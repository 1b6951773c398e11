"""What the doctor of a pool concludes from what was seen: every fault has a finding, and nothing unseen is ok."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.settings.config import Config
from rempart.settings.sections import Toleration
from rempart.sovereignty.pods import REGION
from rempart.training.kubernetes import doctor, doctor_nodes, rights
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
    Unknown,
    network_policy_of,
    node_of,
    quotas_of,
    tolerates,
    used_of,
    whole,
)
from rempart.training.kubernetes.queue import LocalQueue
from rempart.training.kubernetes.rights import DANGEROUS, REQUIRED, Right, Rule, excess, needed

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


def test_a_healthy_pool_passes() -> None:
    assert fails(HEALTHY) == set()
    found = findings(HEALTHY)
    assert found["policy personal"].outcome == "ok" and found["policy sensitive"].outcome == "warn"
    assert found["gpus"].found.endswith("3 free as far as this namespace can see")
    assert found["quota"].found == "3 of 4 GPU left"


SEEN = [
    field.name for field in fields(PoolFacts) if isinstance(field.default, Unknown) or field.name in ("may", "used")
]


@given(unseen=st.sets(st.sampled_from(SEEN), min_size=1), status=st.sampled_from([0, 401, 403, 500]))
def test_what_was_not_seen_is_never_ok(unseen: set[str], status: int) -> None:
    facts = replace(HEALTHY, **dict.fromkeys(unseen, Unknown("refused", status)))
    config = configured(priority_class="p", queue="q", runtime="r")
    found = findings(facts, config)
    checks = {
        "runtime": "runtime",
        "may": "rights",
        "rules": "excess rights",
        "rules_elsewhere": "excess rights",
        "namespace": "namespace",
        "quotas": "quota",
        "nodes": "nodes",
        "used": "gpus",
        "policies": "network",
        "version": "cluster",
        "priority_class": "priority class",
        "queue": "queue",
    }
    assert all(found[checks[name]].outcome in ("FAIL", "not run") for name in unseen)
    assert not doctor.passed(doctor.judge(config, "a", facts, on=TODAY))


def test_nothing_is_claimed_of_a_cluster_that_was_not_seen() -> None:
    found = findings(PoolFacts(version=Unknown("timed out")))
    assert found["cluster"].outcome == "FAIL"
    live = {check for check in found if not check.startswith(("policy", "image")) and check != "cluster"}
    assert live and {found[check].outcome for check in live | {"image pull"}} == {"not run"}


def test_a_server_that_nobody_verifies_fails() -> None:
    assert fails(replace(HEALTHY, verified=False)) == {"cluster"}


# --- rights -----------------------------------------------------------------------------------------------------------


@given(st.sampled_from(needed()))
def test_each_missing_right_is_named(right: Right) -> None:
    assert isinstance(HEALTHY.may, dict)
    found = findings(replace(HEALTHY, may=HEALTHY.may | {right: False}))["rights"]
    assert str(right) in found.found
    assert found.outcome == "FAIL"


VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "escalate", "*")
RESOURCES = ("pods", "pods/exec", "secrets", "serviceaccounts/token", "roles", "nodes", "namespaces", "configmaps", "*")


@given(
    verb=st.sampled_from(VERBS),
    group=st.sampled_from(("", "apps", "rbac.authorization.k8s.io", "*")),
    resource=st.sampled_from(RESOURCES),
    where=st.sampled_from(("pool", "elsewhere")),
)
def test_excess_is_exactly_what_is_not_required(verb: str, group: str, resource: str, where: rights.Where) -> None:
    kept = {
        (v, right.group, right.resource) for right in REQUIRED if where == "pool" or right.cluster for v in right.verbs
    }
    found = excess([Rule((verb,), (group,), (resource,))], where)
    assert (found == ()) == ((verb, group, resource) in kept)
    if found:
        assert found[0].startswith(f"{verb} ")


def test_what_everybody_may_is_no_excess() -> None:
    rules = (
        Rule(("create",), ("authorization.k8s.io",), ("selfsubjectaccessreviews", "selfsubjectrulesreviews")),
        Rule(("create",), ("authentication.k8s.io",), ("selfsubjectreviews",)),
        Rule(
            ("get",), urls=("/api", "/api/*", "/openapi/*", "/version/", "/livez", "/.well-known/openid-configuration/")
        ),
    )
    assert excess(rules, "pool") == excess(rules, "elsewhere") == ()
    assert excess([Rule(("*",), urls=("*",))], "pool") == ("* *",)
    assert excess([Rule(("get",), urls=("/metrics",))], "pool") == ("get /metrics",)


def test_what_openshift_lets_every_identity_see_is_no_excess() -> None:
    rules = (
        Rule(("get",), urls=("/.well-known", "/.well-known/*", "/oapi/*", "/swagger.json", "/", "/version/*")),
        Rule(("get",), ("user.openshift.io",), ("users",), ("~",)),
        Rule(("list", "watch"), ("project.openshift.io",), ("projects",)),
        Rule(("create",), ("authorization.openshift.io",), ("selfsubjectrulesreviews",)),
    )
    assert excess(rules, "pool") == excess(rules, "elsewhere") == ()
    assert excess([Rule(("get",), urls=("/*",))], "pool") == ("get /*",)
    assert excess([Rule(("get",), ("user.openshift.io",), ("users",))], "pool") == ("get users.user.openshift.io",)
    assert excess([Rule(("create",), ("project.openshift.io",), ("projectrequests",))], "pool")


def test_a_dangerous_right_counts_though_the_list_of_rights_does_not_show_it() -> None:
    assert isinstance(HEALTHY.may, dict)
    facts = replace(HEALTHY, may=HEALTHY.may | {Right("list", "secrets"): True}, rules_complete=False)
    assert "list secrets" in findings(facts)["excess rights"].found and "excess rights" in fails(facts)
    assert findings(replace(HEALTHY, rules_complete=False))["excess rights"].outcome == "warn"


def test_nothing_required_is_a_wildcard_or_lists_secrets() -> None:
    rights_ = needed()
    assert not any("*" in (right.verb, right.resource, right.group) for right in rights_)
    assert {right.verb for right in rights_ if right.resource == "secrets"} == {"create"}
    assert {right.resource for right in rights_ if right.where == "cluster"} == {"nodes", "priorityclasses"}
    assert all(right.verb in ("get", "list") for right in rights_ if right.where == "cluster")
    assert not set(rights_) & set(DANGEROUS)


def test_a_pool_with_a_runtime_needs_it_and_the_rights_for_it() -> None:
    assert isinstance(HEALTHY.may, dict)
    config = configured(runtime="rempart", max_gpus=6)
    facts = replace(HEALTHY, may=HEALTHY.may | dict.fromkeys(needed("train jobs"), True))
    assert fails(facts, config) == {"quota", "gpus"}
    roomy = replace(
        facts,
        nodes=(NODE, replace(NODE, name="gpu-2")),
        quotas=(Quota("q", {f"requests.{GPU}": "8"}, {}),),
    )
    assert fails(roomy, config) == set()
    assert "create trainjobs.trainer.kubeflow.org" in findings(replace(roomy, may=HEALTHY.may), config)["rights"].found
    assert "runtime" in fails(replace(roomy, runtime=Unknown("404: not found", 404)), config)
    changed = findings(replace(roomy, runtime=("spec.template is not set",)), config)["runtime"]
    assert changed.outcome == "FAIL" and "spec.template is not set" in changed.found


# --- nodes ------------------------------------------------------------------------------------------------------------

nodes = st.builds(
    Node,
    st.text("abc", min_size=1, max_size=3),
    st.fixed_dictionaries({}, optional={REGION: st.sampled_from(["par", "dallas"]), "gpu": st.just("a100")}),
    st.integers(0, 8),
    st.lists(
        st.sampled_from([(GPU, "", "NoSchedule"), ("other", "x", "NoExecute"), ("soft", "", "PreferNoSchedule")])
    ).map(tuple),
    st.booleans(),
)


@given(nodes)
def test_no_node_of_another_region_is_counted_for_jobs(node: Node) -> None:
    pool = CONFIG.gpu_pools["a"]
    fit = not doctor_nodes.unfit(pool, node)
    assert not fit or (node.labels.get(REGION) == "par" and node.gpus > 0 and node.ready)
    assert not fit or all(taint[0] != "other" for taint in node.taints)
    other = replace(node, labels={**node.labels, REGION: "dallas"})
    assert doctor_nodes.unfit(pool, other)


@given(st.lists(nodes, max_size=4), st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 9)))
def test_any_set_of_nodes_gets_a_verdict(seen: list[Node], used: dict[str, int]) -> None:
    facts = replace(HEALTHY, nodes=tuple(seen), used=used)
    fit = [node for node in seen if not doctor_nodes.unfit(CONFIG.gpu_pools["a"], node)]
    assert ("nodes" in fails(facts)) == (not fit)
    assert ("gpus" in fails(facts)) == (max((node.gpus for node in fit), default=0) < 2)


def test_why_no_node_takes_a_job_is_told_node_by_node() -> None:
    seen = (replace(NODE, labels={}), replace(NODE, name="b", taints=(("x", "y", "NoExecute"),)))
    told = findings(replace(HEALTHY, nodes=seen))["nodes"].found
    assert f"gpu-1: {REGION} is not set" in told and "b: taint x=y:NoExecute is not tolerated" in told
    assert f"has {GPU}" in findings(replace(HEALTHY, nodes=(Node("p", {}),)))["nodes"].found


def test_a_machine_of_another_operator_fails() -> None:
    seen = (replace(NODE, provider_id="aws:///us-east-1a/i-1"), replace(NODE, name="b", provider_id="openstack:///1"))
    told = findings(replace(HEALTHY, nodes=seen))
    assert told["operator"].outcome == "FAIL" and "gpu-1" in told["operator"].found
    assert "operator" not in fails(replace(HEALTHY, nodes=seen[1:]))
    assert "operator" not in fails(replace(HEALTHY, nodes=seen[:1]), configured(operator="aws"))


@pytest.mark.parametrize(
    ("labels", "taints", "pool"),
    [
        ({REGION: "us-east-1"}, (), {}),
        ({}, (), {}),
        ({REGION: "par"}, (("team", "us", "NoSchedule"),), {}),
        ({REGION: "par", "zone": "b"}, (), {"node_selector": {"zone": "a"}}),
        ({REGION: "par"}, (), {"node_selector": {REGION: "paris"}}),
    ],
)
def test_another_operators_nodes_that_jobs_are_kept_off_are_information(
    labels: dict[str, str], taints: tuple[tuple[str, str, str], ...], pool: dict[str, Any]
) -> None:
    config = configured(**pool)
    home = replace(NODE, labels={REGION: "par"} | pool.get("node_selector", {}))
    others = [Node(f"us-{n}", labels, 8, taints, provider_id="aws:///us-east-1a/i-1") for n in range(7)]
    told = findings(replace(HEALTHY, nodes=(home, *others)), config)["operator"]
    assert told.outcome == "ok", told
    assert "jobs do not run on 7 nodes of another operator (aws" in told.found and "and 2 more" in told.found


@pytest.mark.parametrize(
    ("gpus", "ready", "taints"),
    [(0, True, ()), (4, False, ()), (4, True, ((GPU, "", "NoSchedule"), ("x", "", "PreferNoSchedule")))],
)
def test_what_passes_keeps_no_job_off_another_operators_node(
    gpus: int, ready: bool, taints: tuple[tuple[str, str, str], ...]
) -> None:
    other = Node("us-1", {REGION: "par"}, gpus, taints, ready, "aws:///us-east-1a/i-1")
    told = findings(replace(HEALTHY, nodes=(NODE, other)))["operator"]
    assert told.outcome == "FAIL" and "`kubectl taint node us-1 " in told.remedy


def test_a_cluster_without_a_node_for_jobs_is_not_told_to_allow_jobs_of_no_gpu() -> None:
    found = findings(replace(HEALTHY, nodes=()))
    assert found["nodes"].outcome == found["gpus"].outcome == "FAIL"
    assert "max_gpus" not in found["gpus"].remedy


def test_a_pool_without_gpus_needs_none() -> None:
    config = configured(max_gpus=0, quota=None)
    facts = replace(HEALTHY, nodes=(Node("plain", {REGION: "par"}),), quotas=(Quota("q", {"pods": "2"}, {}),))
    assert fails(facts, config) == set() and "gpus" not in findings(facts, config)


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"key": "a"}, True),
        ({"key": "a", "operator": "Equal", "value": "x", "effect": "NoSchedule"}, True),
        ({"key": "a", "operator": "Equal", "value": "z"}, False),
        ({"key": "a", "effect": "NoExecute"}, False),
        ({"key": "b"}, False),
    ],
)
def test_tolerations_are_read_as_kubernetes_does(toleration: dict[str, Any], tolerated: bool) -> None:
    assert tolerates(Toleration.model_validate(toleration), ("a", "x", "NoSchedule")) is tolerated


# --- namespace, quota, network, image, probe --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hard", "used", "outcome"),
    [
        ("4", "0", "ok"),
        ("4", "4", "warn"),
        ("8", "0", "warn"),
        ("3", "0", "warn"),
        ("1", "0", "FAIL"),
        ("1m", "0", "FAIL"),
    ],
)
def test_the_quota_is_held_against_the_contract(hard: str, used: str, outcome: str) -> None:
    quota = Quota("q", {f"requests.{GPU}": hard}, {f"requests.{GPU}": used})
    assert findings(replace(HEALTHY, quotas=(quota,)))["quota"].outcome == outcome


def test_the_tightest_of_several_quotas_counts_and_none_fails() -> None:
    both = tuple(
        Quota(name, {f"requests.{GPU}": "4"}, {f"requests.{GPU}": used}) for name, used in (("a", "0"), ("b", "3"))
    )
    assert findings(replace(HEALTHY, quotas=both))["quota"].found == "1 of 4 GPU left"
    assert "quota" in fails(replace(HEALTHY, quotas=()))
    assert "quota" in fails(replace(HEALTHY, quotas=(Quota("q", {"pods": "9"}, {}),)))


def test_a_namespace_must_exist_and_enforce_the_profile() -> None:
    for seen in (Unknown("not found", 404), Namespace({}), Namespace({doctor.PROFILE: "baseline"})):
        assert fails(replace(HEALTHY, namespace=seen)) == {"namespace"}
    assert "being deleted" in findings(replace(HEALTHY, namespace=Namespace({}, True)))["namespace"].found


def test_the_network_must_be_closed_and_not_opened_again() -> None:
    assert fails(replace(HEALTHY, policies=())) == {"network"}
    assert fails(replace(HEALTHY, policies=(replace(CLOSED, every_pod=False),))) == {"network"}
    assert fails(replace(HEALTHY, policies=(CLOSED, NetworkPolicy("x", False, ("Egress",), ("Egress",))))) == {
        "network"
    }
    assert findings(replace(HEALTHY, policies=(CLOSED,)))["network"].outcome == "warn"


@pytest.mark.parametrize(
    ("spec", "closes", "opens"),
    [
        ({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}, ("Ingress", "Egress"), ()),
        ({"podSelector": {}}, ("Ingress",), ()),
        ({"podSelector": {}, "ingress": [{}]}, ("Ingress",), ("Ingress",)),
        ({"egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}, ("Ingress", "Egress"), ("Egress",)),
        ({"egress": [{"ports": [{"port": 53}]}], "policyTypes": ["Egress"]}, ("Egress",), ()),
        ({"egress": [{"to": [{"podSelector": {}}]}], "policyTypes": ["Egress"]}, ("Egress",), ()),
    ],
)
def test_a_network_policy_is_read_as_kubernetes_does(
    spec: dict[str, Any], closes: tuple[str, ...], opens: tuple[str, ...]
) -> None:
    assert network_policy_of({"metadata": {"name": "p"}, "spec": spec}) == NetworkPolicy("p", True, closes, opens)


def test_an_image_of_an_undeclared_registry_or_without_digest_fails() -> None:
    elsewhere = configured()
    elsewhere = elsewhere.model_copy(
        update={"training": elsewhere.training.model_copy(update={"image": "else.example/x@sha256:" + "a" * 64})}
    )
    assert fails(HEALTHY, elsewhere) == {"image"}
    none = CONFIG.model_copy(update={"training": CONFIG.training.model_copy(update={"image": None})})
    assert fails(HEALTHY, none) == {"image"}


def test_a_pool_that_the_policy_allows_for_nothing_fails() -> None:
    assert {"policy internal", "policy personal", "policy sensitive"} <= fails(HEALTHY, configured(operator="us"))


def test_without_a_pod_nothing_is_said_of_image_and_site() -> None:
    found = findings(replace(HEALTHY, probe=None))
    assert found["image pull"].outcome == found["reach"].outcome == "not run"


def test_what_the_pod_met_is_told() -> None:
    assert HEALTHY.probe is not None
    stuck = replace(HEALTHY, probe=Probe("d", False, "ErrImagePull: not found", left="could not be deleted"))
    assert fails(stuck) == {"image pull", "pod left"} and findings(stuck)["reach"].outcome == "not run"
    ready = Reached(ENTRY_POINT, True, "ready")
    closed = replace(HEALTHY.probe, reached=(ready, Reached("tcp://db:1", False, "refused")))
    assert fails(replace(HEALTHY, probe=closed)) == {"reach"}
    unset = Reached("connection mlflow", False, "not defined", "Set it: `rempart up` writes it.")
    assert findings(replace(HEALTHY, probe=replace(closed, reached=(ready, unset))))["reach"].remedy == unset.remedy
    silent = replace(HEALTHY, probe=replace(HEALTHY.probe, reached=None))
    assert fails(silent) == {"entry point"} and findings(silent)["reach"].outcome == "not run"
    other = replace(HEALTHY.probe, reached=(Reached(ENTRY_POINT, False, "ordered for code 1, here is 2"),))
    told = findings(replace(HEALTHY, probe=other))["entry point"]
    assert told.outcome == "FAIL" and "ordered for code 1" in told.found and "make images" in told.remedy
    abroad = replace(HEALTHY, nodes=(NODE, replace(NODE, name="x", labels={})), probe=replace(HEALTHY.probe, node="x"))
    assert "placement" in fails(abroad)


def test_objects_are_read_as_the_api_writes_them() -> None:
    node = {
        "metadata": {"name": "n", "labels": {"a": "b"}},
        "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}], "providerID": "aws:///z/i", "unschedulable": True},
        "status": {"allocatable": {GPU: "2"}, "conditions": [{"type": "Ready", "status": "True"}]},
    }
    assert node_of(node, GPU) == Node("n", {"a": "b"}, 2, (("k", "", "NoSchedule"),), False, "aws:///z/i")
    assert not node_of({"metadata": {"name": "n"}}, GPU).ready
    holds = {"nodeName": "n", "containers": [{"resources": {"limits": {GPU: "1"}}}, {}]}
    pods = [
        {"spec": holds, "status": {"phase": "Running"}},
        {"spec": holds, "status": {"phase": "Succeeded"}},
        {"spec": {**holds, "nodeName": None}},
    ]
    assert used_of(pods, GPU) == {"n": 1}
    scoped = {"metadata": {"name": "s"}, "spec": {"hard": {"pods": "1"}, "scopes": ["BestEffort"]}}
    plain = {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}}
    assert quotas_of([scoped, plain]) == (Quota("q", {"pods": "1"}, {}),)
    assert whole("2k") == 2000 and whole(3) == 3
    with pytest.raises(ValueError, match="500m"):
        whole("500m")
