"""Check that telemetry switches of dependencies are set, in planned and in running services."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rempart.audit.findings import AuditFinding, CheckResult


@dataclass(frozen=True)
class Switch:
    """An environment variable, and the values (lower case) that disable a package's telemetry."""

    package: str
    variable: str
    off: frozenset[str]


_NO = frozenset(["0", "false", "no", "off"])
_YES = frozenset(["1", "true", "yes", "on"])

SWITCHES = (
    Switch("apache-airflow", "SCARF_ANALYTICS", _NO),
    Switch("apache-airflow", "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED", _NO),
    Switch("mlflow", "MLFLOW_DISABLE_TELEMETRY", _YES),
    Switch("feast", "FEAST_USAGE", _NO),
    Switch("feast", "FEAST_TELEMETRY", _NO),
    Switch("great-expectations", "GX_ANALYTICS_ENABLED", _NO),
    Switch("onnxruntime", "ORT_DISABLE_TELEMETRY", _YES),
    Switch("huggingface-hub", "HF_HUB_DISABLE_TELEMETRY", _YES),
)
"""Our own list, separate from the stack's, so that the two can be compared."""

FLAGS = {"weed": "-master.telemetry=false"}
"""Programs with a switch on the command line."""

CLIENTS = frozenset(
    [
        "amplitude-analytics",
        "analytics-python",
        "bugsnag",
        "mixpanel",
        "posthog",
        "rollbar",
        "rudder-sdk-python",
        "scarf-sdk",
        "segment-analytics-python",
        "sentry-sdk",
        "statsd",
        "statsig",
    ]
)
"""Distributions whose purpose is to send usage or error data elsewhere."""


@dataclass(frozen=True)
class Process:
    """A planned service, or one of its running processes. `pid` is None for a plan."""

    service: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)  # holds secrets
    pid: int | None = None

    @property
    def label(self) -> str:
        return f"{self.service} (process {self.pid})" if self.pid else f"{self.service} (its start command)"


def check(
    processes: Sequence[Process], packages: Collection[str], unseen: Sequence[str], external: Iterable[str]
) -> CheckResult:
    """Return a finding for each unset switch. `packages`: locked names; `unseen`: what could not be read."""
    switches = [switch for switch in SWITCHES if switch.package in packages]
    findings = []
    for switch in switches:
        open_in = [
            process.label
            for process in processes
            if process.environment.get(switch.variable, "").lower() not in switch.off
        ]
        if open_in:
            findings.append(_not_set(switch.package, switch.variable, f"{switch.variable} is not set to off", open_in))
    for program, flag in FLAGS.items():
        running = [
            process for process in processes if process.command and process.command[0].rpartition("/")[2] == program
        ]
        if open_in := [process.label for process in running if flag not in process.command]:
            findings.append(_not_set(program, program, f"{program} runs without {flag}", open_in))
    for name in sorted(CLIENTS & set(packages)):
        what = f"{name} is among the dependencies, and its purpose is to send usage or error data elsewhere"
        remedy = (
            "Find out which code calls it and how to turn it off. Then run `make prove-egress` to show that "
            "nothing is sent."
        )
        findings.append(AuditFinding(f"telemetry/{name}", "medium", what, "requirements.txt", remedy))
    if unseen:
        what = (
            f"The environment of {len(unseen)} running processes could not be read; the environment of their "
            "service was checked instead"
        )
        remedy = "Run the audit as root, because Airflow hides the processes of tasks from other users."
        findings.append(AuditFinding("telemetry/unseen", "low", what, ", ".join(sorted(set(unseen))[:8]), remedy))
    for name in external:
        what = f"{name} is external, so its telemetry switches cannot be checked from here"
        remedy = "Ask its operators to confirm that telemetry is off, then accept this finding with a date."
        findings.append(
            AuditFinding(f"telemetry/external-{name}", "low", what, f"rempart.yaml: services.{name}", remedy)
        )
    live = sum(process.pid is not None for process in processes)
    looked = f"{len(switches)} switches in {len(processes) - live} planned services and {live} running processes"
    return CheckResult("telemetry", looked, tuple(findings))


def _not_set(subject: str, name: str, what: str, where: Sequence[str]) -> AuditFinding:
    shown = ", ".join(where[:4]) + (f" and {len(where) - 4} more" if len(where) > 4 else "")
    remedy = "Start the service with `rempart up`, or set the switch where you start it."
    return AuditFinding(
        f"telemetry/{subject}-{name.lower()}", "high", f"{subject} may send telemetry: {what}", shown, remedy
    )
