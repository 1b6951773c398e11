"""Judge what every DAG must state before it may run, from plain facts: our DAGs and a user's alike.

Pure and fast: Airflow asks whenever it reads a DAG file. A value that is known only at run time counts as not allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import NamedTuple

from rempart.settings.config import SERVERS, Config
from rempart.settings.sections import Classification
from rempart.sovereignty.classification import ORDER
from rempart.sovereignty.places import (
    decide_connection,
    decide_image,
    decide_server,
    decide_site,
    declared_connections,
    full_image,
    platform_connections,
    rewrite_image,
)
from rempart.sovereignty.policy import Decision

TAG = "classification:"
BROKEN = "broken"
"""Tag of a DAG that stands for a pipeline at fault."""
NOBODY = frozenset({"", "airflow"})
"""Owners that name nobody. Airflow uses `airflow` if a DAG states no owner."""


@dataclass(frozen=True)
class Named:
    """The value of an argument; `value` is None if it is known only at run time."""

    argument: str
    value: str | None


@dataclass(frozen=True)
class Image:
    """A container image of a task; for pods it is rewritten to a declared mirror when the pod is made."""

    argument: str
    value: str | None
    in_pod: bool


class TaskFacts(NamedTuple):
    """Facts of one task for the rules. A tuple is created in a third of a dataclass's time."""

    task_id: str
    owner: str
    timeout: timedelta | None
    connections: tuple[Named, ...] = ()
    images: tuple[Image, ...] = ()
    clusters: tuple[str, ...] = ()
    """Arguments that choose a Kubernetes cluster in addition to the declared connection."""


@dataclass(frozen=True)
class DagFacts:
    """Facts of one DAG for the rules. `connections` are those of the DAG's own callbacks and asset watchers."""

    dag_id: str
    tags: frozenset[str]
    tasks: tuple[TaskFacts, ...]
    connections: tuple[Named, ...] = ()


@dataclass(frozen=True)
class Violation:
    """One rule that a DAG breaks: where, what is wrong, what to do. `task` is None for the DAG itself."""

    rule: str
    task: str | None
    what: str
    remedy: str


def tag_of(classification: str) -> str:
    """Return the tag with which a DAG states its classification."""
    return TAG + classification


def stated_classification(tags: Iterable[str]) -> Classification | None:
    """Return the classification in the tags; None if they state none, several, or an unknown classification."""
    stated = {tag.removeprefix(TAG) for tag in tags if tag.startswith(TAG)}
    return next((name for name in ORDER if stated == {name}), None)


JudgedPlacements = dict[tuple[str | None, date, Named | Image], tuple[Violation, ...]]
"""Cached verdicts for one configuration, because the DAGs of a folder use the same few names."""


def violations(
    config: Config, dag: DagFacts, *, on: date, judged: JudgedPlacements | None = None
) -> tuple[Violation, ...]:
    """Return every rule that the DAG breaks, in the order of its tasks; empty if it may run.

    `judged` caches verdicts between DAGs: an empty dict at first, never used with another configuration.
    """
    classification = stated_classification(dag.tags)
    known = {} if judged is None else judged

    def named(task: str | None, things: Iterable[Named | Image]) -> Iterator[Violation]:
        for item in things:
            key = (classification, on, item)
            if key not in known:
                known[key] = tuple(
                    _connection(config, classification, item, on)
                    if isinstance(item, Named)
                    else _image(config, classification, item, on)
                )
            yield from (replace(violation, task=task) for violation in known[key])

    broken = [*_classification(config, dag.tags), *named(None, dag.connections)]
    for task in dag.tasks:
        if task.timeout is None or task.clusters or task.owner.strip() in NOBODY:
            broken += _task(task)
        if task.connections or task.images:
            broken += named(task.task_id, (*task.connections, *task.images))
    return tuple(dict.fromkeys(broken))


def message(dag_id: str, dag_violations: tuple[Violation, ...]) -> str:
    """Return all violations of a DAG as one text, which Airflow shows as its import error."""
    lines = [
        f"DAG {dag_id} breaks {len(dag_violations)} {'rules' if len(dag_violations) > 1 else 'rule'} of this platform:"
    ]
    for number, violation in enumerate(dag_violations, start=1):
        where = f"task {violation.task}" if violation.task else "the DAG"
        lines.append(f"{number}. [{violation.rule}] {where}: {violation.what}")
        lines.append(f"   What to do: {violation.remedy}")
    return "\n".join([*lines, "The rules, with an example that passes: docs/how-to/write-your-own-dag.md"])


def _classification(config: Config, tags: frozenset[str]) -> Iterator[Violation]:
    stated = sorted(tag for tag in tags if tag.startswith(TAG))
    known = ", ".join(tag_of(name) for name in ORDER)
    if not stated:
        what, remedy = (
            "no classification is stated",
            f'Add one of these to the DAG\'s tags: {known}; for example tags=["{TAG}personal"].',
        )
    elif len(stated) > 1:
        what, remedy = (
            f"{len(stated)} classifications are stated: {', '.join(stated)}",
            "Keep one tag, the highest classification.",
        )
    elif (name := stated[0].removeprefix(TAG)) not in ORDER:
        what, remedy = f"'{name}' is not a classification", f"Use one of: {known}."
    elif name not in config.policy:
        what, remedy = (
            f"policy.{name} is not declared, and undeclared placements are denied",
            f"Declare policy.{name} in rempart.yaml.",
        )
    else:
        return
    yield Violation("classification", None, what, remedy)


def _task(task: TaskFacts) -> Iterator[Violation]:
    if task.owner.strip() in NOBODY:
        yield Violation(
            "owner",
            task.task_id,
            f"the task's owner is '{task.owner}', which names nobody",
            'State the responsible team: default_args={"owner": "<team>"}, or owner= of the task.',
        )
    if task.timeout is None:
        yield Violation(
            "timeout",
            task.task_id,
            "the task has no execution_timeout, so it may hang for ever",
            'Set a timeout: default_args={"execution_timeout": timedelta(hours=1)}, or execution_timeout= of the task.',
        )
    for argument in task.clusters:
        yield Violation(
            "cluster",
            task.task_id,
            f"{argument} chooses a Kubernetes cluster that rempart.yaml does not declare",
            f"Remove {argument}: kubernetes_conn_id, the connection of a pool, is enough to name the cluster.",
        )


def _connection(config: Config, classification: str | None, named: Named, on: date) -> Iterator[Violation]:
    argument, value = named.argument, named.value
    if value is None or _is_template(value):
        yield Violation(
            "connection",
            None,
            f"{argument} is known only at run time, so the policy cannot check it",
            f"Write the connection's name into {argument}. To use several declared connections, expand a literal list.",
        )
    elif value not in (declared := declared_connections(config)) | platform_connections(config):
        yield Violation(
            "connection",
            None,
            f"{argument}: connection '{value}' is not declared in rempart.yaml",
            f"Declare it: `connections: {{{value}: {{operator: ..., service: ..., region: ...}}}}`, or use a "
            f"declared connection: {', '.join(sorted(declared)) or 'none yet'}.",
        )
    elif classification is not None:
        decision = decide_connection(config, classification, value, on=on)
        if not decision.allowed:
            yield _denied("connection", f"{argument}: connection '{value}'", decision)


def _image(config: Config, classification: str | None, image: Image, on: date) -> Iterator[Violation]:
    named = f"{image.argument}: image '{image.value}'"
    if not image.value or _is_template(image.value):
        yield Violation(
            "image",
            None,
            f"{image.argument} is known only at run time, so the policy cannot check it",
            f"Write the image's full name into {image.argument}. To use several images, expand a literal list.",
        )
        return
    if not image.in_pod and (mirrored := rewrite_image(config, image.value)) != image.value:
        yield Violation(
            "image",
            None,
            f"{named} comes from {full_image(image.value).partition('/')[0]}; the image's name is rewritten to "
            "the mirror for pods only",
            f"Use the name of the mirrored image: {mirrored}.",
        )
    # without a stated classification, only what no classification allows is told besides
    asked = [classification] if classification else [name for name in ORDER if name in config.policy]
    decisions = [decide_image(config, name, image.value, on=on) for name in asked]
    if decisions and not any(decision.allowed for decision in decisions):
        yield _denied("image", named, decisions[0])


def _is_template(value: str) -> bool:
    return "{{" in value or "{%" in value


def _denied(rule: str, what: str, decision: Decision) -> Violation:
    facts = "; ".join(f"{reason.rule}: {reason.fact}" for reason in decision.against)
    remedies = " / ".join(dict.fromkeys(reason.remedy for reason in decision.against))
    return Violation(rule, None, f"{what} is not allowed for {decision.classification} data: {facts}", remedies)


def pipeline_violations(config: Config, classification: Classification, *, on: date) -> tuple[Violation, ...]:
    """Return every place where a pipeline's data would be stored without permission, and a missing retention."""
    return tuple(_pipeline(config, classification, on))


def _pipeline(config: Config, classification: Classification, on: date) -> Iterator[Violation]:
    if classification not in config.retention:
        yield Violation(
            "retention",
            None,
            f"retention.{classification} is not declared, so the retention of its data is unknown",
            f"Declare retention.{classification} in rempart.yaml.",
        )
    home = config.active_site
    decisions = {f"active_site '{home}'": decide_site(config, classification, "data", home, on=on)}
    reached = [home]
    for source in reached:  # grows: a replica may have replicas
        for pair in config.replication:
            if pair.source == source and pair.target not in reached:
                reached.append(pair.target)
                decisions[f"replication target '{pair.target}'"] = decide_site(
                    config, classification, "replica", pair.target, on=on, replica_of=source
                )
    site = config.backup.site
    decisions[f"backup.site '{site}'"] = decide_site(
        config, classification, "restore-point", site, on=on, replica_of=home
    )
    for server in SERVERS:
        decisions[f"server '{server}'"] = decide_server(config, classification, server, on=on)
    for named, decision in decisions.items():
        if not decision.allowed:
            yield _denied(decision.what, named, decision)
