"""The rules for DAGs: refused DAGs, refused unknowns, and that an additional fact never makes a DAG allowed."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.settings.config import Config
from rempart.sovereignty.classification import ORDER
from rempart.sovereignty.dag_rules import (
    DagFacts,
    Image,
    Named,
    TaskFacts,
    message,
    pipeline_violations,
    stated_classification,
    tag_of,
    violations,
)

TODAY = date(2026, 11, 24)
SERVICES = ("object-storage", "managed-postgresql", "container-registry")


def operator(seat: str, owner: str) -> dict[str, Any]:
    services = {name: {"runs_on": [f"{seat}-{owner}".lower()]} for name in SERVICES}
    regions = {"here": {"country": seat}}
    return {"jurisdiction": seat, "owner_jurisdiction": owner, "regions": regions, "services": services}


EU_PLACE = {"operator": "fr-fr", "region": "here"}
US_PLACE = {"operator": "fr-us", "region": "here"}
EU_RULE = {"jurisdictions": ["EU"], "owner_jurisdictions": ["EU"]}
BASE: dict[str, Any] = {
    "operators": {"fr-fr": operator("FR", "FR"), "de-de": operator("DE", "DE"), "fr-us": operator("FR", "US")},
    "sites": {
        "home": EU_PLACE | {"connection": "s3_home"},
        "near": {"operator": "de-de", "region": "here", "connection": "s3_near"},
        "away": US_PLACE | {"connection": "s3_away"},
    },
    "active_site": "home",
    "machine": EU_PLACE | {"service": "managed-postgresql"},
    "policy": {
        "public": {"jurisdictions": ["EU", "US"], "owner_jurisdictions": ["EU", "US"]},
        "personal": EU_RULE,
        "sensitive": EU_RULE | {"independent": ["replica", "restore-point"]},
    },
    "retention": {name: {"raw": "1d", "quarantine": "1d", "snapshots": "1d"} for name in ("public", "personal")},
    "registries": {
        "registry.example.eu": EU_PLACE | {"mirror_of": ["docker.io"]},
        "registry.example.com": US_PLACE,
    },
    "connections": {
        "warehouse": EU_PLACE | {"service": "managed-postgresql"},
        "warehouse_us": US_PLACE | {"service": "managed-postgresql"},
    },
    "backup": {"site": "near"},
    "replication": [{"source": "home", "target": "near"}],
}
CONFIG = Config.model_validate(BASE)
CLEAN = TaskFacts("work", "sales", timedelta(hours=1))


def found(*tasks: TaskFacts, tags: tuple[str, ...] = (tag_of("personal"),), dag: tuple[Named, ...] = ()) -> list[str]:
    facts = DagFacts("mine", frozenset(tags), tasks, dag)
    return [f"{v.rule} {v.task}: {v.what}" for v in violations(CONFIG, facts, on=TODAY)]


def test_a_dag_that_states_everything_may_run() -> None:
    task = CLEAN._replace(
        connections=(Named("conn_id", "warehouse"), Named("aws_conn_id", "s3_home")),
        images=(Image("image", "python:3.12", True), Image("image", "registry.example.eu/job:1", False)),
    )
    assert found(task) == []
    assert found() == []


@pytest.mark.parametrize(
    ("tags", "expected_text"),
    [
        ((), "no classification is stated"),
        (("personal",), "no classification is stated"),
        (("classification:personal", "classification:public"), "2 classifications are stated"),
        (("classification:secret",), "'secret' is not a classification"),
        (("classification:",), "'' is not a classification"),
        (("classification:Personal",), "'Personal' is not a classification"),
        (("classification:internal",), "policy.internal is not declared"),
    ],
)
def test_a_classification_is_stated_once_and_known(tags: tuple[str, ...], expected_text: str) -> None:
    assert len(found(tags=tags)) == 1 and found(tags=tags)[0].startswith(f"classification None: {expected_text}")


@pytest.mark.parametrize(
    ("task", "expected_text"),
    [
        (CLEAN._replace(owner="airflow"), "owner work: the task's owner is 'airflow'"),
        (CLEAN._replace(owner="  "), "owner work"),
        (CLEAN._replace(timeout=None), "timeout work"),
        (CLEAN._replace(clusters=("config_file",)), "cluster work: config_file"),
        (CLEAN._replace(connections=(Named("conn_id", "crm"),)), "connection work: conn_id: connection 'crm' is not"),
        (CLEAN._replace(connections=(Named("conn_id", None),)), "connection work: conn_id is known only at run time"),
        (CLEAN._replace(connections=(Named("conn_id", "{{ x }}"),)), "work: conn_id is known only at run time"),
        (CLEAN._replace(connections=(Named("conn_id", "warehouse_us"),)), "the ultimate owner of operator fr-us is US"),
        (CLEAN._replace(connections=(Named("conn_id", "s3_away"),)), "not allowed for personal data"),
        (CLEAN._replace(images=(Image("image", None, True),)), "image work: image is known only at run time"),
        (CLEAN._replace(images=(Image("image", "gcr.io/a/b", True),)), "registry 'gcr.io' is not declared"),
        (CLEAN._replace(images=(Image("image", "registry.example.com/a", True),)), "ultimate owner of operator fr-us"),
        (CLEAN._replace(images=(Image("image", "python:3.12", False),)), "rewritten to the mirror for pods only"),
    ],
)  # fmt: skip
def test_each_rule_is_told_with_its_task(task: TaskFacts, expected_text: str) -> None:
    assert len(found(task)) == 1 and expected_text in found(task)[0]


def test_what_a_dags_own_callbacks_name_is_judged_too() -> None:
    assert found(dag=(Named("on_failure_callback.smtp_conn_id", "mail"),))[0].startswith("connection None: on_failure")


def test_without_a_classification_only_what_none_allows_is_told_besides() -> None:
    task = CLEAN._replace(
        connections=(Named("conn_id", "warehouse_us"), Named("conn_id", "crm")),
        images=(Image("image", "registry.example.com/a", True), Image("image", "gcr.io/a", True)),
    )
    assert [info.split()[0] for info in found(task, tags=())] == ["classification", "connection", "image"]


def test_the_message_names_every_rule_task_and_remedy() -> None:
    task = CLEAN._replace(owner="airflow", timeout=None, connections=(Named("conn_id", "crm"),))
    facts = DagFacts("mine", frozenset(), (task,))
    broken = violations(CONFIG, facts, on=TODAY)
    text = message("mine", broken)
    assert text.startswith("DAG mine breaks 4 rules of this platform:\n1. [classification] the DAG: ")
    assert text.count("What to do: ") == 4 == len(broken)
    for violation in broken:
        assert violation.remedy and violation.what in text and violation.remedy in text


NAMES = st.sampled_from(["warehouse", "warehouse_us", "s3_home", "s3_away", "crm", "mlflow", "{{ x }}", None])
IMAGES = st.sampled_from(
    ["python:3.12", "registry.example.eu/a", "registry.example.com/a", "gcr.io/a", "{{ x }}", None]
)
TASKS = st.builds(
    TaskFacts,
    task_id=st.sampled_from(["a", "b", "c"]),
    owner=st.sampled_from(["sales", "airflow", ""]),
    timeout=st.sampled_from([timedelta(hours=1), None]),
    connections=st.lists(st.builds(Named, st.just("conn_id"), NAMES), max_size=3).map(tuple),
    images=st.lists(st.builds(Image, st.just("image"), IMAGES, st.booleans()), max_size=3).map(tuple),
    clusters=st.sampled_from([(), ("in_cluster",)]),
)
TAGS = st.frozensets(st.sampled_from([*map(tag_of, ORDER), "classification:x", "sales"]), max_size=2)


@given(TAGS, st.lists(TASKS, max_size=3), TASKS)
def test_no_further_task_makes_a_dag_allowed(tags: frozenset[str], tasks: list[TaskFacts], further: TaskFacts) -> None:
    before = violations(CONFIG, DagFacts("d", tags, tuple(tasks)), on=TODAY)
    after = violations(CONFIG, DagFacts("d", tags, (*tasks, further)), on=TODAY)
    assert set(before) <= set(after)


@given(TAGS, st.lists(TASKS, max_size=3), st.lists(st.sampled_from(sorted(CONFIG.connections)), max_size=2))
def test_no_removed_declaration_makes_a_dag_allowed(
    tags: frozenset[str], tasks: list[TaskFacts], removed: list[str]
) -> None:
    dag = DagFacts("d", tags, tuple(tasks))
    fewer = CONFIG.model_copy(
        update={"connections": {k: v for k, v in CONFIG.connections.items() if k not in removed}, "registries": {}}
    )
    if violations(CONFIG, dag, on=TODAY):
        assert violations(fewer, dag, on=TODAY)


@given(TAGS, st.lists(TASKS, min_size=1, max_size=3))
def test_what_may_run_states_everything(tags: frozenset[str], tasks: list[TaskFacts]) -> None:
    if violations(CONFIG, DagFacts("d", tags, tuple(tasks)), on=TODAY):
        return
    assert stated_classification(tags) in CONFIG.policy
    for task in tasks:
        assert task.timeout and task.owner == "sales" and not task.clusters
        stated = [*(connection.value for connection in task.connections), *(image.value for image in task.images)]
        assert all(value and "{{" not in value for value in stated)


def of_pipeline(changes: dict[str, Any], classification: Any = "personal") -> list[str]:
    config = Config.model_validate(BASE | changes)
    return [f"{v.rule}: {v.what}" for v in pipeline_violations(config, classification, on=TODAY)]


def test_a_pipeline_is_judged_wherever_its_data_comes_to_rest() -> None:
    assert of_pipeline({}) == []
    assert of_pipeline({"active_site": "away"})[0].startswith(
        "data: active_site 'away' is not allowed for personal data"
    )
    assert of_pipeline({"backup": {"site": "away"}})[0].startswith("restore-point: backup.site 'away'")
    assert of_pipeline({"replication": [{"source": "home", "target": "away"}]})[0].startswith(
        "replica: replication target"
    )
    external = {"url": "postgresql://db.example", "connection": "theirs", **US_PLACE, "service": "managed-postgresql"}
    assert of_pipeline({"services": {"postgresql": {"external": external}}})[0].startswith(
        "database: server 'postgresql' is not allowed for personal data"
    )
    assert of_pipeline({"retention": {}}) == [
        "retention: retention.personal is not declared, so the retention of its data is unknown"
    ]


def test_a_replica_of_a_replica_counts_and_another_sites_replica_does_not() -> None:
    onward = [{"source": "near", "target": "away"}, {"source": "home", "target": "near"}]
    assert "replication target 'away'" in of_pipeline({"replication": onward})[0]
    assert of_pipeline({"replication": [{"source": "near", "target": "away"}]}) == []
    round_trip = [{"source": "home", "target": "near"}, {"source": "near", "target": "home"}]
    assert of_pipeline({"replication": round_trip}) == []


def test_a_copy_on_the_same_infrastructure_is_no_independent_copy() -> None:
    kept = {"retention": BASE["retention"] | {"sensitive": BASE["retention"]["public"]}}
    assert of_pipeline(kept, "sensitive") == []
    told = of_pipeline(kept | {"backup": {"site": "home"}}, "sensitive")
    assert len(told) == 1 and "restore-point" in told[0] and "run on fr-fr" in told[0]


def test_the_classification_is_read_from_the_tags() -> None:
    for name in ORDER:
        assert stated_classification(["x", tag_of(name)]) == name
    assert stated_classification([tag_of("public"), tag_of("personal")]) is None
    assert stated_classification(["classification:none"]) is None
    assert stated_classification([]) is None
