"""The resources that deploy/ requests for each component are those that the component uses."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import yaml

from rempart.deployment.setup import launch, paths
from tests.integration.test_stack import each_living
from tests.unit.deploy.platform_files import PLATFORM, VALUES

pytestmark = pytest.mark.stack

UNITS = {"Mi": 1, "Gi": 1024}


def requested(resources: dict[str, dict[str, str]]) -> int:
    memory = resources["requests"]["memory"]
    return int(memory[:-2]) * UNITS[memory[-2:]]


def used(stack: paths.Stack, service: str, *, alone: bool = False) -> float:
    """MiB of a service's own memory, without what it shares with files; `alone`: of its first process."""
    found = dict(each_living(launch.marked(f"{stack.id}:{service}"), _parent_and_memory))
    if alone:
        found = {pid: read for pid, read in found.items() if read[0] not in found}
    assert found, service
    return sum(memory for _, memory in found.values())


def _parent_and_memory(process: psutil.Process) -> tuple[int, float]:
    """The number of its parent and its own memory in MiB; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text("utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError) as ended:
        raise psutil.NoSuchProcess(process.pid) from ended
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    own = sum(int(fields.get(name, "0 kB").split()[0]) for name in ("RssAnon", "RssShmem"))
    return int(fields["PPid"]), own / 1024


@pytest.mark.parametrize("component", ["apiServer", "dagProcessor", "triggerer"])
def test_a_component_fits_into_its_request(stack: paths.Stack, component: str) -> None:
    name = f"airflow-{VALUES[component]['args'][3]}"
    assert used(stack, name) < requested(VALUES[component]["resources"])


def test_the_scheduler_fits_with_a_watcher_of_pods_beside_it(stack: paths.Stack) -> None:
    """Its tasks run below it here, and in pods there; there it has one more process, a copy of its own."""
    assert 2 * used(stack, "airflow-scheduler", alone=True) < requested(VALUES["scheduler"]["resources"])


def test_the_scorer_fits_into_its_request(stack: paths.Stack) -> None:
    deployment = next(yaml.safe_load_all((PLATFORM.parent / "serving" / "scorer.yaml").read_text("utf-8")))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert used(stack, "scorer") < requested(container["resources"])


def test_mlflow_fits_into_its_request(stack: paths.Stack) -> None:
    (deployment, _) = yaml.safe_load_all((PLATFORM / "mlflow.yaml").read_text("utf-8"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert used(stack, "mlflow") < requested(container["resources"])
