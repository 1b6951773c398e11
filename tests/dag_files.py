"""The project's DAG files, which a test of the running stack adds to for a while."""

from __future__ import annotations

import shutil

DROPPED = "dropped_by_a_test"
"""The folder in dags/ whose files tests/e2e/test_cluster_policies.py gives to its stack alone."""
NOT_COPIED = shutil.ignore_patterns("__pycache__", DROPPED)
"""For a copy of dags/ that another process of tests makes meanwhile."""
