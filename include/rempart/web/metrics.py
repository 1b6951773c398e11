"""Render the platform's figures in the text format of Prometheus, from the same facts as the pages. Pure.

An unknown figure has no sample, and `rempart_source_up` shows which source gave nothing: alerts on absence detect it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from rempart.serving.scorer.metrics import family
from rempart.settings.pipeline import Pipeline
from rempart.web.facts import CockpitFacts, Unknown
from rempart.web.read_models import loss, overview
from rempart.web.read_models.data import quarantined
from rempart.web.read_models.feature_store.views import feature_views
from rempart.web.read_models.models import champions
from rempart.web.read_models.points import standing
from rempart.web.read_models.sites import sites
from rempart.web.read_models.watched.drift import CURRENT_FOR, Watched, all_watched

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METRICS: Mapping[str, str] = {
    "rempart_source_up": "Whether a source of the cockpit answered (1) or not (0).",
    "rempart_facts_age_seconds": "Age in seconds of the facts behind these metrics.",
    "rempart_replication_lag_seconds": "Upper limit of a replica's present lag.",
    "rempart_replication_lag_objective_seconds": "Objective for a pair's lag.",
    "rempart_replication_failures": "Objects that did not reach the target in the last run.",
    "rempart_rpo_seconds": "Seconds of changes that would be lost now.",
    "rempart_rpo_objective_seconds": "Objective for the RPO.",
    "rempart_restore_point_age_seconds": "Age of the newest consistent restore point.",
    "rempart_restore_points": "Number of restore points that exist.",
    "rempart_rto_seconds": "Duration of the last drill.",
    "rempart_rto_objective_seconds": "Objective for the RTO.",
    "rempart_drill_age_seconds": "Age of the last successful drill.",
    "rempart_drill_ok": "Whether the newest drill was successful (1) or not (0).",
    "rempart_ledger_forged_records": (
        "Records at the end of the ledger without a signature of its key. They are ignored."
    ),
    "rempart_denials_open": "Placements and connections that the policy denied and has not allowed since.",
    "rempart_places_at_risk": "Sites and pools with data that the policy does not allow there.",
    "rempart_site_loss_state": "Cost of the loss of a site: 0 good, 1 warning, 2 unknown, 3 bad.",
    "rempart_usage_known": "Whether a site was measured completely in the last three days (1) or not (0).",
    "rempart_site_objects": "Current objects of a bucket at its last measurement.",
    "rempart_site_bytes": "Bytes of a bucket's current objects.",
    "rempart_site_old_versions": "Number of old versions in a bucket.",
    "rempart_site_old_bytes": "Bytes of a bucket's old versions.",
    "rempart_locks_lapsing": "Locks of a bucket that end soon or are missing, by the objects that they protect.",
    "rempart_replication_throughput_bytes": "Bytes per second of the last replication that copied objects.",
    "rempart_pipeline_valid": "Whether a pipeline can run (1), or it is at fault (0).",
    "rempart_quarantined_rows": "Rows of a pipeline that wait in quarantine now.",
    "rempart_feature_age_seconds": "Age of the newest online value of a feature view.",
    "rempart_feature_age_limit_seconds": "Oldest age that is fresh: `max_age` of the view.",
    "rempart_feature_entities": "Entities of a feature view in the online store.",
    "rempart_feature_skew_known": "Whether a view was compared with the snapshot in the last two days (1) or not (0).",
    "rempart_feature_skew_entities": "Entities whose online values differ, by the last comparison with a result.",
    "rempart_drift_known": "Whether a champion has a green or red verdict of the last two days (1) or not (0).",
    "rempart_drift_red": "Whether the newest verdict on a champion is red (1) or not (0).",
    "rempart_drift_columns": "Columns that moved away from the training data, by the newest verdict.",
    "rempart_retraining_refused": "Whether the last training for drift gave no better champion (1) or did (0).",
    "rempart_champion_metric": "Metric of the gate on the rows since the training data, by the newest verdict.",
    "rempart_champion_metric_recorded": "The same metric on the hold-out.",
    "rempart_data_late": "Whether rows, features or labels were late at the newest verdict (1) or not (0).",
    "rempart_data_age_seconds": "Age of the newest row, load of features or label at the newest verdict.",
    "rempart_data_age_limit_seconds": "Age from which they are late.",
    "rempart_challenger_metric": "Metric of the gate of the newest candidate, on rows that neither learned from.",
    "rempart_challenger_difference": "The same metric minus that of the champion on these rows.",
    "rempart_challenger_better": "Whether the challenger is better than the champion beyond chance (1) or not (0).",
    "rempart_domain_auc": "AUC of a model that tells the window from the training data, by the newest verdict.",
    "rempart_domain_auc_allowed": "Largest AUC that the training data lets expect.",
    "rempart_interval_coverage": "Share of known true values in the champion's intervals, by the newest verdict.",
    "rempart_interval_coverage_promised": "Share of true values that these intervals promise to cover.",
    "rempart_champion_margin_ratio": "Share by which a champion is better than the strictest bound of the gate.",
}
"""Every metric with its description. All are gauges."""
_STATES = {"good": 0, "warning": 1, "unknown": 2, "bad": 3}
Sample = tuple[str, Mapping[str, str], float]


def exposition(facts: CockpitFacts, now: datetime) -> str:
    """Return the metrics as text."""
    samples = list(_samples(facts, now))
    lines: list[str] = []
    for name, help_text in METRICS.items():
        own = [sample for sample in samples if sample[0] == name]
        if own:
            lines += family(name, "gauge", help_text, {tuple(labels.items()): value for _, labels, value in own})
    return "\n".join(lines) + "\n"


def _samples(facts: CockpitFacts, now: datetime) -> Iterator[Sample]:
    missing = facts.unknown()
    for source in ("configuration", "active site", "ledger", "pipelines"):
        yield "rempart_source_up", {"source": source}, float(source not in missing)
    yield "rempart_facts_age_seconds", {}, max((now - facts.at).total_seconds(), 0.0)
    for verdict in loss.judge(facts, now).sites:
        yield "rempart_site_loss_state", {"site": verdict.site}, _STATES[verdict.state]
    yield from _objectives(facts, now)
    yield from _of_pipelines(facts)
    if isinstance(facts.evidence, Unknown):
        return
    yield from _of_ledger(facts, now)


def _objectives(facts: CockpitFacts, now: datetime) -> Iterator[Sample]:
    names = {"rpo": "rpo", "restore_point": "restore_point_age", "rto": "rto", "drill": "drill_age"}
    for figure in overview.figures(facts, now):
        if figure.seconds is not None:
            yield f"rempart_{names[figure.name]}_seconds", {}, figure.seconds
        if figure.name in ("rpo", "rto") and figure.objective_seconds is not None:
            yield f"rempart_{figure.name}_objective_seconds", {}, figure.objective_seconds
    if not isinstance(facts.config, Unknown):
        for pair in facts.config.replication:
            lag = loss.lag(facts, pair, now)
            labels = {"source": lag.source, "target": lag.target}
            yield "rempart_replication_lag_objective_seconds", labels, lag.objective_seconds
            if lag.seconds is not None:
                yield "rempart_replication_lag_seconds", labels, lag.seconds
                yield "rempart_replication_failures", labels, float(lag.failures or 0)


def _of_ledger(facts: CockpitFacts, now: datetime) -> Iterator[Sample]:
    yield "rempart_restore_points", {}, float(len(standing(facts)))
    if drills := facts.of("drill"):
        yield "rempart_drill_ok", {}, float(drills[0].body["ok"] is True)
    yield "rempart_ledger_forged_records", {}, float(facts.forged)
    yield "rempart_denials_open", {}, float(len(overview.open_denials(facts, now)))
    places = overview.places(facts, now)
    if places and not any(place.state == "unknown" for place in places):
        yield "rempart_places_at_risk", {}, float(sum(place.state == "bad" for place in places))
    yield from _of_sites(facts, now)
    for pipeline, rows in sorted(quarantined(facts).items()):
        yield "rempart_quarantined_rows", {"pipeline": pipeline}, float(rows)
    yield from _of_features(facts, now)
    yield from _of_drift(facts, now)
    for champion in champions(facts):
        if champion.margin is not None:
            labels = {"model": champion.model, "version": champion.version}
            yield "rempart_champion_margin_ratio", labels, champion.margin


def _of_pipelines(facts: CockpitFacts) -> Iterator[Sample]:
    if isinstance(facts.pipelines, Unknown) or isinstance(facts.at_fault, Unknown):
        return
    for name, file in facts.pipelines.items():
        valid = isinstance(file, Pipeline) and name not in facts.at_fault
        yield "rempart_pipeline_valid", {"pipeline": name}, float(valid)


def _of_features(facts: CockpitFacts, now: datetime) -> Iterator[Sample]:
    for pipeline in () if isinstance(facts.pipelines, Unknown) else facts.pipelines:
        for view in feature_views(facts, pipeline, now):
            labels = {"pipeline": pipeline, "view": view.view}
            if view.limit_seconds is not None:
                yield "rempart_feature_age_limit_seconds", labels, view.limit_seconds
            if view.age_seconds is not None:
                yield "rempart_feature_age_seconds", labels, view.age_seconds
            if view.freshness == "never loaded":
                continue
            if view.entities is not None:
                yield "rempart_feature_entities", labels, float(view.entities)
            if view.skew != "not compared":
                yield "rempart_feature_skew_known", labels, float(view.is_current)
            if view.different is not None:
                yield "rempart_feature_skew_entities", labels, float(view.different)


def _of_drift(facts: CockpitFacts, now: datetime) -> Iterator[Sample]:
    for watched in all_watched(facts, now):
        if watched.champion is None:
            continue
        labels = {"pipeline": watched.pipeline}
        if watched.retrained is not None:
            yield "rempart_retraining_refused", labels, float(bool(watched.retrained.refused))
        yield "rempart_drift_known", labels, float(watched.state != "unknown")
        if watched.outcome is None or watched.version != watched.champion:
            continue
        yield "rempart_drift_red", labels, float(watched.outcome == "red")
        if watched.moved is not None:
            yield "rempart_drift_columns", labels, float(watched.moved)
        if watched.measured:
            named, overall = labels | {"metric": str(watched.metric)}, watched.measured[0]
            if overall.value is not None:
                yield "rempart_champion_metric", named, overall.value
            if overall.recorded is not None:
                yield "rempart_champion_metric_recorded", named, overall.recorded
        if watched.at and now - watched.at <= CURRENT_FOR:
            yield from _of_data(watched)


def _of_data(watched: Watched) -> Iterator[Sample]:
    """Yield what the newest verdict on the champion tells beside drift."""
    labels = {"pipeline": watched.pipeline}
    for each in watched.ages:
        of_age = labels | {"what": each.what}
        if each.told in ("fresh", "late"):
            yield "rempart_data_late", of_age, float(each.is_late)
        if each.age_seconds is not None:
            yield "rempart_data_age_seconds", of_age, each.age_seconds
        if each.limit_seconds is not None:
            yield "rempart_data_age_limit_seconds", of_age, each.limit_seconds
    other = watched.challenger
    if other and other.challenger is not None and other.difference is not None:
        named = labels | {"version": other.version, "metric": str(watched.metric)}
        yield "rempart_challenger_metric", named, other.challenger
        yield "rempart_challenger_difference", named, other.difference
        yield "rempart_challenger_better", named, float(other.better == "challenger")
    if watched.intervals and watched.intervals.covered is not None:
        yield "rempart_interval_coverage", labels, watched.intervals.covered
        yield "rempart_interval_coverage_promised", labels, watched.intervals.promised
    if watched.apart:
        yield "rempart_domain_auc", labels, watched.apart.area
        if watched.apart.allowed is not None:
            yield "rempart_domain_auc_allowed", labels, watched.apart.allowed


def _of_sites(facts: CockpitFacts, now: datetime) -> Iterator[Sample]:
    found = sites(facts, now)
    for pair in found.pairs:
        if pair.throughput:
            labels = {"source": pair.lag.source, "target": pair.lag.target}
            yield "rempart_replication_throughput_bytes", labels, pair.throughput[-1][1]
    for site in found.sites:
        labels, told = {"site": site.place.name}, site.usage
        yield "rempart_usage_known", labels, float(told is not None and told.whole)
        if told is None or told.old:
            continue
        for bucket in told.buckets:
            own = labels | {"bucket": bucket.name}
            for name in ("objects", "bytes", "old_versions", "old_bytes"):
                if (value := getattr(bucket, name)) is not None:
                    yield f"rempart_site_{name}", own, float(value)
        for locks in told.locks:
            if locks.lapsing is not None:
                own = labels | {"bucket": locks.bucket, "protects": locks.protects}
                yield "rempart_locks_lapsing", own, float(locks.lapsing)
