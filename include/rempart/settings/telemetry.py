"""Switches that disable telemetry of dependencies. Every process of ours starts with all of them."""

from __future__ import annotations

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
