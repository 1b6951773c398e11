"""A changed pipeline has its DAGs read again, and an unchanged project has nothing read."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.deployment.setup import environment, paths
from rempart.settings import config

pytestmark = pytest.mark.airflow
PAST = 1_700_000_000.0
TIMES = st.floats(0, 4e9)
UNREAD = ("include/rempart/code.py", "include/notebooks/own.ipynb")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose DAG files are as new as everything that they read."""
    from rempart.orchestration.parsing.project_bundle import renew

    for name in ("dags/train.py", "dags/own/score.py", "include/pipelines/a.yaml", *UNREAD):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name, encoding="utf-8")
    (tmp_path / "rempart.yaml").write_text("a: 1\n", encoding="utf-8")
    for file in (tmp_path / "dags").rglob("*.py"):
        os.utime(file, (PAST, PAST))
    assert renew(tmp_path / "dags", tmp_path, time.time())
    return tmp_path


def written(project: Path) -> None:
    (project / "include/pipelines/a.yaml").write_text("changed", encoding="utf-8")


def written_with_an_old_time(project: Path) -> None:
    written(project)
    os.utime(project / "include/pipelines/a.yaml", (PAST, PAST))


def moved_here(project: Path) -> None:
    (project / "b.yaml").write_text("b", encoding="utf-8")
    os.utime(project / "b.yaml", (PAST, PAST))
    (project / "b.yaml").rename(project / "include/pipelines/b.yaml")


def removed(project: Path) -> None:
    (project / "include/pipelines/a.yaml").unlink()


def query_added(project: Path) -> None:
    (project / "include/sql").mkdir()
    (project / "include/sql/q.sql").write_text("SELECT 1", encoding="utf-8")


def configured(project: Path) -> None:
    (project / "rempart.yaml").write_text("a: 2\n", encoding="utf-8")


def module_changed(project: Path) -> None:
    later = time.time() + 60
    os.utime(project / "dags/own/score.py", (later, later))


@pytest.mark.parametrize(
    "change", [written, written_with_an_old_time, moved_here, removed, query_added, configured, module_changed]
)
def test_every_dag_file_is_new_after_a_change_and_stays_as_it_is(project: Path, change: Callable[[Path], None]) -> None:
    from rempart.orchestration.parsing.project_bundle import renew

    dags = project / "dags"
    assert not renew(dags, project, time.time())
    bodies = {file: file.read_bytes() for file in dags.rglob("*.py")}
    time.sleep(0.05)  # longer than the clock of a file system lags behind
    change(project)
    later = time.time() + 120
    assert renew(dags, project, later)
    assert [file.stat().st_mtime for file in bodies] == pytest.approx([later] * len(bodies))
    assert {file: file.read_bytes() for file in dags.rglob("*.py")} == bodies
    assert not renew(dags, project, later + 1)


def test_code_that_airflow_loads_at_its_start_has_no_dag_read_again(project: Path) -> None:
    from rempart.orchestration.parsing.project_bundle import renew

    time.sleep(0.05)
    (project / "include/rempart/code.py").write_text("changed", encoding="utf-8")
    (project / "include/rempart/more.py").write_text("more", encoding="utf-8")
    assert not renew(project / "dags", project, time.time())
    (project / "include/notebooks/own.ipynb").write_text("saved by itself", encoding="utf-8")
    assert not renew(project / "dags", project, time.time())


def test_a_change_ahead_of_the_clock_is_none(project: Path) -> None:
    from rempart.orchestration.parsing.project_bundle import renew

    for file in (project / "dags").rglob("*.py"):
        os.utime(file, (PAST, PAST))
    assert not renew(project / "dags", project, PAST + 60)
    assert renew(project / "dags", project, time.time() + 60)


def test_dag_files_ahead_of_a_clock_that_was_set_back_get_its_time(project: Path) -> None:
    """Airflow reads a file without a pause while its time is ahead of the last reading."""
    from rempart.orchestration.parsing.project_bundle import renew

    earlier = PAST + 3600
    assert renew(project / "dags", project, earlier)
    assert {file.stat().st_mtime for file in (project / "dags").rglob("*.py")} == {earlier}
    assert not renew(project / "dags", project, earlier + 10)


def test_a_folder_that_may_not_be_changed_is_told_and_airflow_goes_on(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from rempart.orchestration.parsing import project_bundle

    tried: list[str] = []
    clock = [100.0]
    given_a_time = os.utime

    def refused(file: Path, times: tuple[float, float]) -> None:
        tried.append(file.name)
        if file.name == "train.py":
            raise PermissionError(1, "Operation not permitted", str(file))
        given_a_time(file, times)

    monkeypatch.setattr(project_bundle.time, "monotonic", lambda: clock[0])
    monkeypatch.setenv("REMPART_HOME", str(project))
    bundle = project_bundle.ProjectBundle(path=str(project / "dags"), name="dags-folder")
    time.sleep(0.05)
    written(project)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(project_bundle.os, "utime", refused)
        bundle.refresh()
        bundle.refresh()  # not at once again: the other file would be read each time
        assert sorted(tried) == ["score.py", "train.py"]
    assert "Operation not permitted" in caplog.text and caplog.text.count("delay of minutes") == 1
    clock[0] += project_bundle.PAUSE_SECONDS
    bundle.refresh()
    assert min(file.stat().st_mtime for file in (project / "dags").rglob("*.py")) > time.time() - 60


def test_a_while_after_a_change_the_files_are_read_once_more(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow does not take a DAG for removed at the first reading without it."""
    from rempart.orchestration.parsing.project_bundle import AGAIN_SECONDS, AHEAD_SECONDS, ProjectBundle

    monkeypatch.setenv("REMPART_HOME", str(project))
    bundle = ProjectBundle(path=str(project / "dags"), name="dags-folder")
    began = time.time() + 60
    bundle.look(began)  # nothing has changed, so nothing follows
    bundle.look(began + AGAIN_SECONDS)
    assert (project / "dags/train.py").stat().st_mtime < began
    time.sleep(0.05)
    removed(project)
    times = []
    for seconds in (0, 10, AGAIN_SECONDS - 1, AGAIN_SECONDS, AGAIN_SECONDS + 10, 5 * AGAIN_SECONDS):
        bundle.look(began + seconds)
        times.append(round((project / "dags/train.py").stat().st_mtime - began - AHEAD_SECONDS, 3))
    assert times == [0, 0, 0, AGAIN_SECONDS, AGAIN_SECONDS, AGAIN_SECONDS]


@given(dags=st.lists(TIMES), inputs=st.lists(TIMES), now=TIMES)
def test_dag_files_as_new_as_the_newest_time_are_not_outdated(
    dags: list[float], inputs: list[float], now: float
) -> None:
    from rempart.orchestration.parsing.project_bundle import are_outdated

    newest = max([*dags, *inputs, now])
    assert not are_outdated([newest] * len(dags), inputs)
    assert not dags or are_outdated([*dags, min(dags)], [newest + 1000])


def test_airflow_gets_this_bundle_where_the_folder_can_be_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    from rempart.orchestration.parsing.project_bundle import ProjectBundle

    root = config.project_root()
    stack = paths.Stack(root, tmp_path, config.load(root / "rempart.yaml"))
    for name, value in (environment.readings(stack) | {"CORE__LOAD_EXAMPLES": "False"}).items():
        monkeypatch.setenv(f"AIRFLOW__{name}", value)
    (bundle,) = DagBundlesManager().get_all_dag_bundles()
    assert isinstance(bundle, ProjectBundle) and bundle.name == "dags-folder"
    in_containers = environment.readings(dataclasses.replace(stack, containers=True))
    assert in_containers == {"DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30"}
