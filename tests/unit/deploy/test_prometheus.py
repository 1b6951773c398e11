"""The alert rules: they use existing figures, name existing runbooks, and fire when they should."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rempart.web.metrics import METRICS

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy" / "prometheus" / "rempart-rules.yaml"
PAIR = {"source": "primary", "target": "haven"}

# What makes each alert fire: series over 4 hours, a sample a minute, and the labels that the alert then has.
FIRES: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "RempartSilent": ({"rempart_facts_age_seconds": "400x240"}, {}, "The cockpit gives no figures, or old ones"),
    "RempartSourceDown": (
        {'rempart_source_up{source="ledger"}': "0x240"},
        {"source": "ledger"},
        "No answer from: ledger",
    ),
    "RempartReplicaLate": (
        {
            'rempart_replication_lag_seconds{source="primary",target="haven"}': "1000x240",
            'rempart_replication_lag_objective_seconds{source="primary",target="haven"}': "900x240",
        },
        PAIR,
        "The replica primary to haven is later",
    ),
    "RempartReplicaIncomplete": (
        {'rempart_replication_failures{source="primary",target="haven"}': "3x240"},
        PAIR,
        "3 objects do not reach haven",
    ),
    "RempartRpoMissed": ({"rempart_rpo_seconds": "4000x240", "rempart_rpo_objective_seconds": "3600x240"}, {}, "More"),
    "RempartNoRestorePoint": ({'rempart_source_up{source="ledger"}': "1x240"}, {}, "No consistent restore point"),
    "RempartDrillRed": ({"rempart_drill_ok": "0x240"}, {}, "The newest restore point that was drilled"),
    "RempartDrillOld": ({"rempart_drill_age_seconds": "700000x240"}, {}, "No drill has passed"),
    "RempartRtoMissed": (
        {"rempart_rto_seconds": "9x240", "rempart_rto_objective_seconds": "8x240"},
        {},
        "The last drill",
    ),
    "RempartPlaceAtRisk": ({"rempart_places_at_risk": "1x240"}, {}, "1 places hold"),
    "RempartLedgerForged": ({"rempart_ledger_forged_records": "2x240"}, {}, "2 records at the end of the ledger"),
    "RempartDenied": ({"rempart_denials_open": "2x240"}, {}, "2 placements or connections"),
    "RempartSiteCannotBeLost": (
        {'rempart_site_loss_state{site="primary"}': "3x240"},
        {"site": "primary"},
        "The loss of primary",
    ),
    "RempartPipelineAtFault": (
        {'rempart_pipeline_valid{pipeline="p"}': "0x240"},
        {"pipeline": "p"},
        "p: the pipeline cannot run",
    ),
    "RempartQuarantineGrows": (
        {'rempart_quarantined_rows{pipeline="p"}': "0+2x240"},
        {"pipeline": "p"},
        "p: more than",
    ),
    "RempartFeaturesStale": (
        {
            'rempart_feature_age_seconds{pipeline="p",view="v"}': "9000x240",
            'rempart_feature_age_limit_seconds{pipeline="p",view="v"}': "3600x240",
        },
        {"pipeline": "p", "view": "v"},
        "p: the newest online value of view v is older",
    ),
    "RempartFeatureAgeUnknown": (
        {'rempart_feature_age_limit_seconds{pipeline="p",view="v"}': "3600x240"},
        {"pipeline": "p", "view": "v"},
        "p: the age of the online values of view v is not known",
    ),
    "RempartFeaturesDiffer": (
        {'rempart_feature_skew_entities{pipeline="p",view="v"}': "3x240"},
        {"pipeline": "p", "view": "v"},
        "p: 3 entities of view v have other values",
    ),
    "RempartFeaturesNotCompared": (
        {'rempart_feature_skew_known{pipeline="p",view="v"}': "0x240"},
        {"pipeline": "p", "view": "v"},
        "p: whether the online values of view v are right",
    ),
    "RempartDrift": (
        {'rempart_drift_red{pipeline="p"}': "1x240"},
        {"pipeline": "p"},
        "p: the champion's inputs, predictions or errors moved",
    ),
    "RempartDriftUnknown": (
        {'rempart_drift_known{pipeline="p"}': "0x1440"},
        {"pipeline": "p"},
        "p: whether the champion still fits the data is not known",
    ),
    "RempartDataLate": (
        {'rempart_data_late{pipeline="p",what="labels"}': "1x240"},
        {"pipeline": "p", "what": "labels"},
        "p: the labels of the champion's watch are late",
    ),
    "RempartRetrainingRefused": (
        {'rempart_retraining_refused{pipeline="p"}': "1x240"},
        {"pipeline": "p"},
        "p: the training that drift started gave no better champion",
    ),
    "RempartPointsUnlocked": (
        {'rempart_locks_lapsing{site="haven",bucket="backups",protects="restore-points"}': "2x240"},
        {"site": "haven", "bucket": "backups", "protects": "restore-points"},
        "haven: 2 locks of what restore points need",
    ),
    "RempartEvidenceUnlocked": (
        {'rempart_locks_lapsing{site="haven",bucket="evidence",protects="evidence"}': "1x240"},
        {"site": "haven", "bucket": "evidence", "protects": "evidence"},
        "haven: 1 locks of evidence",
    ),
    "RempartSiteNotMeasured": (
        {'rempart_usage_known{site="haven"}': "0x240"},
        {"site": "haven"},
        "haven: what it holds",
    ),
}
HEALTHY = {
    "rempart_facts_age_seconds": "5x240",
    'rempart_source_up{source="ledger"}': "1x240",
    'rempart_replication_lag_seconds{source="primary",target="haven"}': "100x240",
    'rempart_replication_lag_objective_seconds{source="primary",target="haven"}': "900x240",
    'rempart_replication_failures{source="primary",target="haven"}': "0x240",
    "rempart_rpo_seconds": "100x240",
    "rempart_rpo_objective_seconds": "3600x240",
    "rempart_restore_point_age_seconds": "100x240",
    "rempart_drill_ok": "1x240",
    "rempart_drill_age_seconds": "86400x240",
    "rempart_rto_seconds": "24x240",
    "rempart_rto_objective_seconds": "1800x240",
    "rempart_places_at_risk": "0x240",
    "rempart_denials_open": "0x240",
    "rempart_ledger_forged_records": "0x240",
    'rempart_site_loss_state{site="primary"}': "1x240",
    'rempart_quarantined_rows{pipeline="p"}': "7x240",
    'rempart_pipeline_valid{pipeline="p"}': "1x240",
    'rempart_locks_lapsing{site="haven",bucket="backups",protects="restore-points"}': "0x240",
    'rempart_locks_lapsing{site="haven",bucket="evidence",protects="evidence"}': "0x240",
    'rempart_usage_known{site="haven"}': "1x240",
    'rempart_feature_age_seconds{pipeline="p",view="v"}': "900x240",
    'rempart_feature_age_seconds{pipeline="p",view="without a limit"}': "90000x240",
    'rempart_feature_age_limit_seconds{pipeline="p",view="v"}': "3600x240",
    'rempart_drift_known{pipeline="p"}': "1x240",
    'rempart_drift_red{pipeline="p"}': "0x240",
    'rempart_retraining_refused{pipeline="p"}': "0x240",
    'rempart_data_late{pipeline="p",what="labels"}': "0x240",
    'rempart_feature_skew_known{pipeline="p",view="v"}': "1x240",
    'rempart_feature_skew_entities{pipeline="p",view="v"}': "0x240",
}


def rules() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in heads}


def test_each_alert_has_a_severity_a_runbook_that_is_there_and_figures_that_there_are() -> None:
    assert rules().keys() == FIRES.keys()
    for name, rule in rules().items():
        assert rule["labels"]["severity"] in ("page", "ticket"), name
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert not anchor or anchor in anchors(ROOT / page), name
        assert (ROOT / page).is_file(), name
        assert set(re.findall(r"rempart_\w+", rule["expr"])) <= METRICS.keys(), name


def asked_at(name: str) -> str:
    """When an alert must fire: after three hours, or two more than it waits."""
    hours = re.fullmatch(r"([0-9]+)h", rules()[name].get("for", ""))
    return f"{max(3, int(hours[1]) + 2 if hours else 0)}h"


def case(series: dict[str, str], expected: dict[str, Any]) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": asked_at(name), "alertname": name, "exp_alerts": alerts} for name, alerts in expected.items()
        ],
    }


def fired(name: str) -> dict[str, Any]:
    rule, (_, labels, _) = rules()[name], FIRES[name]
    told = rule["annotations"]["summary"]
    for label, value in labels.items():
        told = told.replace(f"{{{{ $labels.{label} }}}}", value)
    series = next(iter(FIRES[name][0].values()))
    told = told.replace("{{ $value }}", series.partition("x")[0])
    return {"exp_labels": rule["labels"] | labels, "exp_annotations": rule["annotations"] | {"summary": told}}


def test_each_alert_fires_when_it_should_and_none_on_a_healthy_platform(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("there is no promtool (Debian's package of that name), so it was NOT tested that each alert fires")
    cases = [case(HEALTHY, {name: [] for name in rules()})]
    cases += [case(series, {name: [fired(name)]}) for name, (series, _, _) in FIRES.items()]
    cases.append(case({}, {"RempartSilent": [fired("RempartSilent")]}))
    told = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": cases}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    done = subprocess.run(
        [promtool, "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name, (_, _, begins) in FIRES.items():
        assert fired(name)["exp_annotations"]["summary"].startswith(begins)
