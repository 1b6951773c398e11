"""Switches that disable telemetry of dependencies, and the exception of this machine from the proxy. Every process of
ours starts with all of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "SCARF_ANALYTICS": "false",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "FEAST_USAGE": "False",
    "FEAST_TELEMETRY": "False",
    "GX_ANALYTICS_ENABLED": "false",
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Variable and value. The images set them (Dockerfile), and so do pods, TrainJobs and every process that we start."""


def off_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return NO_PROXY, in both spellings, with this machine added."""
    names = [n for n in (environment.get("NO_PROXY") or environment.get("no_proxy") or "").split(",") if n]
    value = ",".join(dict.fromkeys([*names, "127.0.0.1", "localhost"]))
    return {"NO_PROXY": value, "no_proxy": value}


def adopt_environment() -> None:
    """Disable telemetry in this process too, and exclude its local traffic from the proxy."""
    os.environ.update(TELEMETRY_OFF | off_proxy(os.environ))
