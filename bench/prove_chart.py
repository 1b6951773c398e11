"""Proof: the official Airflow chart accepts deploy/helm, and renders only objects that the platform's rules allow.

    make prove-chart CHART=airflow-1.22.0.tgz     (a file or a folder; HELM=/path/to/helm if it is not on PATH)

The proof needs no cluster and no network. The chart's own schema validates the values, helm renders them, and each
object is compared with the rules of tests/chart.py. The recorded facts about the chart
(tests/unit/deploy/airflow_chart.yaml) are compared with the chart itself. As a control, the proof also tries values
that must be refused, or that make the chart write a Secret.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from bench.prove_pods import write
from rempart.deployment.kubernetes import cluster
from tests.chart import Chart, Refused, faults, schema_of, untrue
from tests.unit.deploy.platform_files import CHART, ROOT
from tests.unit.deploy.test_kubernetes import documents

NAME = "chart"
WHAT = "the chart takes the values, and makes only what it may"
HELM = ROOT / "deploy" / "helm"
PLATFORM = ROOT / "deploy" / "kubernetes" / "platform"
SETS = {
    "KubernetesExecutor": ([HELM / "values.yaml"], PLATFORM),
    "CeleryExecutor": ([HELM / "values.yaml", HELM / "values-celery.yaml"], ROOT / "deploy" / "kubernetes" / "celery"),
}
"""Values by executor, and the folder that is applied after the platform's own files."""
REFUSED = (
    "AIRFLOW__CORE__SQL_ALCHEMY_CONN",
    "AIRFLOW__CELERY__CELERY_RESULT_BACKEND",
    "AIRFLOW__ELASTICSEARCH__ELASTICSEARCH_HOST",
)
"""Keys below `enableBuiltInSecretEnvVars` that older charts had."""
EXPECTED = {
    # our own class writes logs to the active site; the chart knows only its own settings
    "KubernetesExecutor": [
        "Kubernetes workers task logs may not persist unless you configure log persistence or remote logging!"
    ],
    "CeleryExecutor": list[str](),
}
"""Accepted warnings, with their reasons."""
Check = dict[str, Any]


def why_not(helm: str, chart: str) -> str:
    """Return why this machine cannot run the proof; empty if it can."""
    if not chart:
        return "no chart is named: make prove-chart CHART=airflow-1.22.0.tgz (docs/how-to/kubernetes.md fetches it)"
    if not Path(chart).exists():
        return f"there is no chart {chart}"
    if shutil.which(helm) is None:
        return f"there is no program {helm}: install Helm 3.19 or newer, or name it with HELM="
    return ""


def stub_values(folder: Path) -> list[dict[str, Any]]:
    """Return the platform's manifests, with the additions and without the removals of an overlay's component."""
    found = [
        document
        for file in sorted(PLATFORM.glob("*.yaml"))
        for document in documents(file)
        if "spec" in document or "rules" in document or "subjects" in document
    ]
    if folder == PLATFORM:
        return found
    (kustomization,) = documents(folder / "kustomization.yaml")
    gone = {patch["target"]["kind"] for patch in kustomization["patches"]}
    added = [document for name in kustomization["resources"] for document in documents(folder / name)]
    return [resource for resource in found if resource["kind"] not in gone] + added


def prove(chart: Chart, checks: list[Check]) -> None:
    """Add one check for each requirement."""

    def noting(what: str, wrong: list[str], good: str) -> None:
        checks.append({"what": what, "ok": not wrong, "detail": "; ".join(wrong) or good})

    wrong = untrue(CHART, *schema_of(chart))
    noting(
        "what is on record about the chart is true",
        wrong,
        f"{len(CHART['defaults'])} defaults, and every key that is set",
    )
    version = str(yaml.safe_load(chart.read("Chart.yaml"))["version"])
    noting("the chart is the one that the page names", [] if version == CHART["version"] else [version], version)
    secrets = {f"rempart-{name}" for name in (*cluster.SECRETS, "broker")}
    for executor, (values, folder) in SETS.items():
        try:
            output = chart.lint(values)
            made, ours = chart.rendered(values), stub_values(folder)
            wrong = faults(made, ours, secrets, executor)
            told = [warning for warning in chart.warnings(values) if warning not in EXPECTED[executor]]
        except Refused as refused:
            noting(f"{executor}: the chart takes the values", [str(refused)], "")
            continue
        noting(f"{executor}: the chart takes the values", [], output.splitlines()[-1])
        noting(f"{executor}: what it makes breaks no rule", wrong, f"{len(made)} objects, {len(ours)} beside them")
        noting(
            f"{executor}: it warns of nothing else than is known", told, "; ".join(EXPECTED[executor]) or "no warning"
        )
        for name, place in CHART["secrets"].items():
            wrong = [] if _makes(chart, values, place, name) else [f"nothing was seen without {place}"]
            noting(f"{executor}: control: without {place} the rule is red", wrong, name)
    for key in REFUSED:
        try:
            chart.rendered(SETS["KubernetesExecutor"][0], [f"enableBuiltInSecretEnvVars.{key}=false"])
            noting(f"control: {key} is refused", ["it was taken"], "")
        except Refused as refused:
            noting(f"control: {key} is refused", [] if key in str(refused) else [str(refused)], "by the schema")


def _makes(chart: Chart, values: list[Path], place: str, name: str) -> bool:
    """Return whether the chart makes a Secret if the values name none, or refuses them."""
    try:
        made = chart.rendered(values, [f"{place}=null"])
    except Refused as refused:
        return place in str(refused)
    return f"Secret {name}: the chart makes it" in faults(made, stub_values(PLATFORM), set(), "KubernetesExecutor")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make prove-chart", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--chart", default=os.environ.get("CHART", ""), help="the chart: a file or a folder")
    parser.add_argument("--helm", default=os.environ.get("HELM", "helm"), help="the program (default: helm)")
    given = parser.parse_args(argv)
    began, checks = time.monotonic(), list[Check]()
    if reason := why_not(given.helm, given.chart):
        checks.append({"what": WHAT, "ok": None, "detail": reason})
        write(NAME, checks, 0.0, {})
        print(f"\nThe proof was NOT RUN: {reason}.", file=sys.stderr)
        return 1
    prove(Chart(given.helm, Path(given.chart)), checks)
    return 0 if write(NAME, checks, time.monotonic() - began, {"chart": Path(given.chart).name}) else 1


if __name__ == "__main__":
    sys.exit(main())
