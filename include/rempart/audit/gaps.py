"""Find gaps in rempart.yaml: a classification without a rule, a refused pipeline, doubtful facts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import date
from typing import Any

from rempart.audit.findings import AuditFinding, CheckResult, Severity
from rempart.settings.config import SERVERS, Config
from rempart.settings.operators import Operator, Sourced
from rempart.settings.pipeline import Pipeline
from rempart.sovereignty import facts
from rempart.sovereignty.classification import ORDER
from rempart.sovereignty.places import HOLDS, decide_server, decide_site, placement, site_placement
from rempart.sovereignty.policy import Decision, independence

_POLICY = "rempart.yaml: policy"


def check_policy(config: Config, pipelines: Mapping[str, Pipeline | None], on: date) -> CheckResult:
    """Return gaps of the policy. `None` stands for a pipeline with an invalid file."""
    findings = [*_rules(config, on), *_pipelines(config, pipelines, on), *_independence(config), *_jobs(config)]
    looked = f"{len(config.policy)} rules, {len(config.sites)} sites, {len(pipelines)} pipelines"
    return CheckResult("policy", looked, tuple(findings))


def _rules(config: Config, on: date) -> Iterator[AuditFinding]:
    for name in ORDER:
        if name not in config.policy:
            what = f"The policy has no rule for {name}, so {name} data is refused everywhere"
            yield AuditFinding(
                f"policy/no-rule-{name}",
                "low",
                what,
                _POLICY,
                f"Declare policy.{name} if you have data of this classification.",
            )
        elif not any(decide_site(config, name, "data", site, on=on).allowed for site in config.sites):
            what = f"No declared site may store {name} data, so it is refused everywhere"
            remedy = f"If you have data of this classification, declare a site that policy.{name} allows."
            yield AuditFinding(f"policy/no-place-{name}", "info", what, _POLICY, remedy)
        if name in config.policy and name not in config.retention:
            what = f"No retention is declared for {name} data"
            yield AuditFinding(f"policy/no-retention-{name}", "medium", what, "rempart.yaml: retention", "Declare it.")


def _pipelines(config: Config, pipelines: Mapping[str, Pipeline | None], on: date) -> Iterator[AuditFinding]:
    for name, pipeline in pipelines.items():
        where = f"include/pipelines/{name}.yaml"
        if pipeline is None:
            what = f"Pipeline {name} is not valid, so its placements were not checked"
            yield AuditFinding(f"policy/invalid-{name}", "medium", what, where, f"Run `rempart pipeline check {name}`.")
            continue
        kind, active = pipeline.classification, config.active_site
        asked = {"data": decide_site(config, kind, "data", active, on=on)}
        for pair in config.replication:
            if pair.source == active:
                decision = decide_site(config, kind, "replica", pair.target, on=on, replica_of=pair.source)
                asked[f"replica-{pair.target}"] = decision
        asked["restore-point"] = decide_site(
            config, kind, "restore-point", config.backup.site, on=on, replica_of=active
        )
        asked |= {HOLDS[server]: decide_server(config, kind, server, on=on) for server in SERVERS}
        for what, decision in asked.items():
            if not decision.allowed:
                yield _denied(name, what, decision, where)


def _denied(pipeline: str, subject: str, decision: Decision, where: str) -> AuditFinding:
    reasons = "; ".join(f"{reason.rule}: {reason.fact}" for reason in decision.against)
    return AuditFinding(
        f"policy/denied-{pipeline}-{subject}",
        "medium",
        f"{decision.what} of {pipeline} ({decision.classification}) is refused at {decision.place}: {reasons}",
        where,
        " / ".join(dict.fromkeys(reason.remedy for reason in decision.against)),
    )


def _jobs(config: Config) -> Iterator[AuditFinding]:
    """Return findings about what jobs in pools can reach in addition to their own data."""
    if config.training.backend != "kubernetes":
        return
    where = f"rempart.yaml: sites.{config.active_site}.job_credentials"
    offered = config.sites[config.active_site].job_credentials
    how = "Set the credentials of jobs: a session if the operator has an STS (docs/how-to/gpu-pools.md)."
    if offered is None:
        yield AuditFinding(
            "policy/no-job-credentials",
            "medium",
            "No job may run in a pool: no credentials are declared for jobs",
            where,
            how,
        )
    elif offered.kind != "session":
        what = "the site's own key" if offered.kind == "platform" else (f"the key of connection {offered.connection}")
        weight: Severity = "medium" if offered.kind == "platform" else "low"
        yield AuditFinding(
            "policy/wide-job-credentials", weight, f"Jobs in pools have {what}, which never expires", where, how
        )
    if config.training.tracking_user == "platform":
        what = "Jobs in pools log to MLflow as the platform's user"
        yield AuditFinding(
            "policy/wide-tracking-user", "medium", what, "rempart.yaml: training.tracking_user", "Say attempt."
        )


def _independence(config: Config) -> Iterator[AuditFinding]:
    """Return findings about sites that share operators with the active one, and about rules that no site can meet."""
    active = config.active_site
    here = site_placement(config, active)
    outlives = [
        name
        for name, site in config.sites.items()
        if name != active and independence(config, "", placement(name, site), here).ok
    ]
    asking = [f"policy.{name}.independent" for name, rule in config.policy.items() if rule.independent]
    if asking and not outlives:
        what = f"{', '.join(asking)} needs an independent place, but no site is independent of {active}"
        remedy = f"Add a site whose operator shares no infrastructure with that of {active}."
        yield AuditFinding("policy/no-independent-site", "high", what, "rempart.yaml: sites", remedy)
    elif not outlives:
        what = f"Every site runs on infrastructure of {active}: the loss of one operator destroys all copies"
        remedy = f"Add a site at an independent operator, with `independent_of: {active}`, and replicate to it."
        yield AuditFinding("policy/one-infrastructure", "medium", what, "rempart.yaml: sites", remedy)
    elif not asking and not any(site.independent_of for site in config.sites.values()):
        what = f"{', '.join(outlives)} is independent of {active}, but the configuration does not require it"
        remedy = f"Set `independent_of: {active}` at the site, or policy.<classification>.independent."
        yield AuditFinding("policy/independence-not-asked", "low", what, "rempart.yaml: sites", remedy)


def check_facts(config: Config, overridden: Mapping[str, Any], shipped: Collection[str], on: date) -> CheckResult:
    """Return findings about operators' facts that are old, uncertain or without a source.

    `overridden` is the section `operators` of rempart.yaml; `shipped` names the catalogue's entries.
    """
    used = facts.in_use(config)
    findings = list(_stale(used, overridden, on, config))
    for name, operator in used.items():
        where = f"rempart.yaml: operators.{name}" if name in overridden else f"include/operators/{name}.yaml"
        if doubtful := [
            f"{path or 'the entry'} ({fact.note or 'no note'})" for path, fact in _walk(operator) if not fact.certain
        ]:
            what = f"{len(doubtful)} facts about {name} are not certain and count as unknown: {', '.join(doubtful[:4])}"
            remedy = f"Find out the facts, and state them under operators.{name} with source and as_of."
            findings.append(AuditFinding(f"facts/uncertain-{name}", "low", what, where, remedy))
        if name in overridden and not _has_source(overridden[name]):
            kind = "overrides shipped facts" if name in shipped else "is not in the shipped catalogue"
            what = f"operators.{name} {kind} without source and date, so an auditor cannot check it"
            remedy = f"State source and as_of under operators.{name}."
            findings.append(
                AuditFinding(f"facts/no-source-{name}", "medium" if name in shipped else "low", what, where, remedy)
            )
    looked = f"{len(used)} operators in use, {sum(1 for operator in used.values() for _ in _walk(operator))} facts"
    return CheckResult("facts", looked, tuple(findings))


def _stale(
    used: Mapping[str, Operator], overridden: Mapping[str, Any], on: date, config: Config
) -> Iterator[AuditFinding]:
    by_operator: dict[str, list[facts.StaleFact]] = {}
    for fact in facts.stale(used, on, config.audit.facts_max_age):
        by_operator.setdefault(fact.operator, []).append(fact)
    for name, found in by_operator.items():
        what = facts.summaries(found, config.audit.facts_max_age)[0]
        dated = any(fact.as_of for fact in found)
        if not dated and name in overridden and not _has_source(overridden[name]):
            continue  # that it has neither source nor date is told once
        remedy = f"Read the sources again. Set as_of, and correct what changed, under operators.{name} in rempart.yaml."
        yield AuditFinding(f"facts/stale-{name}", "medium" if dated else "low", what, f"operators.{name}", remedy)


def _walk(node: Any, path: str = "") -> Iterator[tuple[str, Sourced]]:
    def below(key: object) -> str:
        return f"{path}.{key}" if path else str(key)

    if isinstance(node, Sourced):
        yield path, node
        for name in type(node).model_fields:
            yield from _walk(getattr(node, name), below(name))
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _walk(value, below(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _walk(value, below(index))


def _has_source(entry: Any) -> bool:
    """Return whether an entry of rempart.yaml names a source for itself, or for each of its facts."""
    if not isinstance(entry, Mapping):
        return False
    if entry.get("source"):
        return True
    parts = [value for key, value in entry.items() if isinstance(value, Mapping)]
    return bool(parts) and len(parts) == len(entry) and all(_has_source(part) for part in parts)
