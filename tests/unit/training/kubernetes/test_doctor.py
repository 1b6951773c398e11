"""The doctor's conclusions about a pool: every fault has a finding, and nothing unseen is ok."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.settings.sections import Toleration
from rempart.sovereignty.pods import REGION
from rempart.training.kubernetes import doctor, doctor_nodes
from rempart.training.kubernetes.facts import (
    ENTRY_POINT,
    Namespace,
    NetworkPolicy,
    Node,
    PoolFacts,
    Probe,
    Quota,
    Reached,
    Unknown,
    network_policy_of,
    node_of,
    quotas_of,
    tolerates,
    used_of,
    whole_units,
)
from tests.unit.training.kubernetes.healthy_pool import (
    CLOSED,
    CONFIG,
    GPU,
    HEALTHY,
    NODE,
    TODAY,
    configured,
    fails,
    findings,
)


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
    assert whole_units("2k") == 2000 and whole_units(3) == 3
    with pytest.raises(ValueError, match="500m"):
        whole_units("500m")
