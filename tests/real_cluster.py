"""`make test-k8s`: jobs in pods, and manifests, on the cluster of KUBECONFIG (docs/how-to/test-on-a-cluster.md)."""

from __future__ import annotations

import os
import sys

import pytest

from tests.api_cluster import NotUsable, RealCluster, Settings
from tests.clusters import CHOSEN

TESTS = (
    "tests/faults/test_training.py",
    "tests/faults/test_training_api.py",
    "tests/integration/test_platform_on_a_cluster.py",
)


def main(arguments: list[str]) -> int:
    """The exit status: pytest's, or 2 when the cluster or what is said about it is not usable."""
    try:
        settings = Settings.of(os.environ)
        RealCluster(settings, [], 0).look()
    except NotUsable as problem:
        print(problem, file=sys.stderr)
        return 2
    os.environ[CHOSEN] = "yes"
    return int(pytest.main([*TESTS, *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
