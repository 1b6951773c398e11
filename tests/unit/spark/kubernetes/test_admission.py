"""No pod of a Spark job gets a node or a Secret that the policy has not allowed, in whatever order things come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.spark.kubernetes import labels
from rempart.spark.kubernetes.admission import (
    Deny,
    GiveCredentials,
    NodeJudged,
    Note,
    PodSeen,
    Release,
    beyond_template,
    came_before,
    needs_nodes,
    next_steps,
    release_patch,
    secrets_of,
    unlike,
)
from tests.kubernetes_double.patches import apply_json

NAMES = ("n1", "n2", "n3", "n4")
GATE = "rempart.eu/place"


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[PodSeen], list[NodeJudged], set[tuple[str, str]]]:
    """Pods of an attempt, nodes as they were judged, and what was put on record before."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    nodes = [NodeJudged(name, draw(st.booleans()), "its region is another") for name in names]
    pods = []
    for number in range(draw(st.integers(0, 4))):
        bound = draw(st.sampled_from(["", *NAMES]))
        pods.append(
            PodSeen(
                f"u{number}",
                f"p{number}",
                "driver" if number == 0 else "executor",
                bound,
                gated=not bound and number > 0 and draw(st.booleans()),
                over=draw(st.integers(0, 4)) == 0,
                refusal=draw(st.sampled_from(["", "", "", "its image is not of a declared registry"])),
            )
        )
    noted = {(pod.uid, pod.node) for pod in pods if pod.node and draw(st.booleans())}
    return pods, nodes, noted


@given(clusters())
def test_only_allowed_nodes_are_given_and_a_pod_elsewhere_ends_the_attempt(
    seen: tuple[list[PodSeen], list[NodeJudged], set[tuple[str, str]]],
) -> None:
    pods, nodes, noted = seen
    allowed = {node.name for node in nodes if node.allowed}
    listed = {node.name for node in nodes}
    steps = next_steps(pods, nodes, noted)
    for step in steps:
        assert not step.pod.over
        if isinstance(step, Release):
            assert step.pod.gated and step.nodes and set(step.nodes) <= allowed
            assert any(p.role == "driver" and not p.over and (p.uid, p.node) in noted for p in pods)
        elif isinstance(step, GiveCredentials | Note):
            assert step.pod.node in allowed and (step.pod.uid, step.pod.node) not in noted
            assert isinstance(step, GiveCredentials) == (step.pod.role == "driver")
    astray = [
        pod
        for pod in pods
        if not pod.over
        and (
            pod.refusal
            or (pod.node and pod.node not in allowed and (pod.node in listed or (pod.uid, pod.node) not in noted))
        )
    ]
    if astray:
        assert len(steps) == 1 and isinstance(steps[0], Deny) and steps[0].why


@given(st.integers(0, 6), st.lists(st.booleans(), min_size=1, max_size=4), st.data())
def test_each_executor_is_released_beside_a_driver_and_then_there_is_nothing_to_do(
    executors: int, allowed: list[bool], data: st.DataObject
) -> None:
    nodes = [NodeJudged(NAMES[number], is_allowed) for number, is_allowed in enumerate(allowed)]
    pods = {"d": PodSeen("d", "d", "driver", data.draw(st.sampled_from([node.name for node in nodes])))}
    pods |= {f"e{n}": PodSeen(f"e{n}", f"e{n}", "executor", gated=True) for n in range(executors)}
    noted: set[tuple[str, str]] = set()
    for _ in range(4):
        for step in next_steps(pods.values(), nodes, noted):
            if isinstance(step, Deny):
                assert pods["d"].node not in {node.name for node in nodes if node.allowed} and not noted
                return
            if isinstance(step, Release):  # the scheduler takes any of them
                pods[step.pod.uid] = replace(step.pod, gated=False, node=data.draw(st.sampled_from(step.nodes)))
            else:
                noted.add((step.pod.uid, step.pod.node))
    assert not next_steps(pods.values(), nodes, noted) and not needs_nodes(pods.values(), noted)
    assert {uid for uid, _ in noted} == set(pods)


def test_a_node_that_is_gone_ends_no_attempt_whose_pod_was_judged_there() -> None:
    driver, executor = PodSeen("d", "d", "driver", "n1"), PodSeen("e", "e", "executor", "n2")
    noted = {("d", "n1"), ("e", "n2")}
    assert next_steps([driver, executor], [NodeJudged("n1", True)], noted) == ()
    (denied,) = next_steps([driver, executor], [NodeJudged("n1", True)], {("d", "n1")})
    assert isinstance(denied, Deny) and "n2 is not among the nodes" in denied.why


def test_an_executor_that_may_be_nowhere_is_told_why() -> None:
    driver, executor = PodSeen("d", "d", "driver", "gone"), PodSeen("e", "e", "executor", gated=True)
    (denied,) = next_steps([driver, executor], [NodeJudged("n1", False, "node n1: in Oregon")], {("d", "gone")})
    assert isinstance(denied, Deny) and denied.pod == executor and "in Oregon" in denied.why
    (denied,) = next_steps([driver, executor], [], {("d", "gone")})
    assert isinstance(denied, Deny) and "no node" in denied.why


def gated(**spec: Any) -> dict[str, Any]:
    gates = [{"name": "kueue.x-k8s.io/admission"}, {"name": GATE}]
    return {"metadata": {"uid": "u1"}, "spec": {"schedulingGates": gates, **spec}}


def test_the_gate_goes_with_a_limit_to_nodes_by_name_and_other_gates_stay() -> None:
    apart = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    pod = gated(affinity=apart)
    spec = apply_json(pod, release_patch(pod, ["n2", "n1"], GATE))["spec"]
    assert spec["schedulingGates"] == [{"name": "kueue.x-k8s.io/admission"}]
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    # Kubernetes takes one name for each requirement on metadata.name
    assert [term["matchFields"][0]["values"] for term in terms] == [["n1"], ["n2"]]
    assert spec["affinity"]["podAntiAffinity"] == apart["podAntiAffinity"]


def test_a_pod_that_was_replaced_or_chooses_nodes_itself_is_not_released() -> None:
    pod = gated()
    patch = release_patch(pod, ["n1"], GATE)
    with pytest.raises(Exception, match="test"):
        apply_json(pod | {"metadata": {"uid": "u2"}}, patch)
    required = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}}}
    with pytest.raises(ValueError, match="affinity of its own"):
        release_patch(gated(affinity=required), ["n1"], GATE)
    with pytest.raises(ValueError, match="not in list"):
        release_patch({"metadata": {"uid": "u"}, "spec": {}}, ["n1"], GATE)


def executor(**spec: Any) -> dict[str, Any]:
    mounted = {"name": "credentials", "secret": {"secretName": "spark-1-1"}}
    return {"spec": {"volumes": [mounted], "containers": [{"name": "base"}], "serviceAccountName": "default", **spec}}


def test_an_executor_as_its_template_asks_for_nothing_more() -> None:
    assert beyond_template(executor(), "spark-1-1") == ""


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"volumes": [{"name": "x", "secret": {"secretName": "train-2-1"}}]}, "Secret train-2-1"),
        (
            {"volumes": [{"name": "x", "projected": {"sources": [{"secret": {"name": "train-2-1"}}]}}]},
            "Secret train-2-1",
        ),
        ({"containers": [{"envFrom": [{"secretRef": {"name": "train-2-1"}}]}]}, "Secret train-2-1"),
        ({"initContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "other"}}}]}]}, "Secret other"),
        ({"serviceAccountName": "airflow"}, "account"),
        ({"volumes": [{"name": "x", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}, "account"),
    ],
)
def test_an_executor_that_asks_for_more_than_its_template_is_refused(spec: dict[str, Any], why: str) -> None:
    assert why in beyond_template(executor(**spec), "spark-1-1")


def driver(**own: Any) -> dict[str, Any]:
    env = [{"name": "REMPART_SPARK_ORDER", "value": "x"}, {"name": "TMPDIR", "value": "/work"}]
    container = {"name": "base", "command": ["python", "-m", "job"], "env": env, **own}
    spec = {"containers": [container], "serviceAccountName": "rempart-spark", "volumes": executor()["spec"]["volumes"]}
    return {"metadata": {"name": "spark-1-1"}, "spec": spec}


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (driver(command=["sh", "-c", "cat /run/secrets/rempart/*"]), "command"),
        (driver(args=["x"]), "args"),
        (driver(lifecycle={"postStart": {"exec": {"command": ["cat"]}}}), "lifecycle"),
        (driver(env=[*driver()["spec"]["containers"][0]["env"], {"name": "PYTHONPATH", "value": "/x"}]), "PYTHONPATH"),
        (driver(env=[{"name": "TMPDIR", "value": "/work"}]), "REMPART_SPARK_ORDER"),
        (driver() | {"metadata": {"name": "a"}}, "which is spark-1-1"),
        ({**driver(), "spec": driver()["spec"] | {"initContainers": [{"name": "x"}]}}, "containers"),
        ({**driver(), "spec": driver()["spec"] | {"serviceAccountName": "airflow"}}, "airflow"),
        (
            {
                **driver(),
                "spec": driver()["spec"] | {"volumes": [{"name": "x", "secret": {"secretName": "train-2-1"}}]},
            },
            "Secret train-2-1",
        ),
    ],
)
def test_a_driver_that_the_platform_would_not_make_is_told_apart(found: dict[str, Any], why: str) -> None:
    assert why in unlike(found, driver(), "REMPART_SPARK_ORDER")
    moved = driver()
    moved["spec"]["containers"][0]["env"][0]["value"] = "y"  # compared by whoever knows what it means
    assert unlike(moved, driver(), "REMPART_SPARK_ORDER") == ""
    assert secrets_of(driver()["spec"]) == {"spark-1-1"}


def in_pool(job: int, role: str, second: int = 0, *, node: str = "n1", phase: str = "Running") -> dict[str, Any]:
    told = {labels.JOB: f"j{job}", labels.ATTEMPT: "1", labels.ROLE: role}
    moment = f"2026-11-30T12:00:{second:02}Z"
    return {
        "metadata": {"name": f"spark-j{job}-{role}", "creationTimestamp": moment, "labels": told},
        "spec": {"nodeName": node},
        "status": {"phase": phase},
    }


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), min_size=1, max_size=5))
def test_of_drivers_without_executors_the_oldest_stays_and_the_others_name_it(
    jobs: list[tuple[int, bool, bool]],
) -> None:
    drivers = [
        in_pool(number, labels.DRIVER, second, phase="Failed" if over else "Running")
        for number, (second, _, over) in enumerate(jobs)
    ]
    executors = [in_pool(number, labels.EXECUTOR) for number, (_, served, _) in enumerate(jobs) if served]
    gated = [in_pool(number, labels.EXECUTOR, node="") for number in range(len(jobs))]
    alone = [(second, number) for number, (second, served, over) in enumerate(jobs) if not served and not over]
    stranger = {"metadata": {"name": "x"}, "spec": {"nodeName": "n1"}, "status": {}}
    for second, number in alone:
        found = came_before(drivers[number], [*drivers, *executors, *gated, stranger])
        oldest = min(alone)
        assert found == ("" if (second, number) == oldest else f"spark-j{oldest[1]}-driver")
