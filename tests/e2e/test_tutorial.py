"""docs/tutorial, executed: each `sh` and `python` block in order, as a reader would type it, on a platform of its own.

The second page deletes objects and leaves a champion behind, so the tutorial gets a copy of the project with its own
stack. The outputs are compared with the pages in outline (`tests.tutorial_pages.unlike`).
"""

from __future__ import annotations

import json
import sys

import pytest

from rempart.settings.config import project_root
from tests.e2e.projects import Project
from tests.tutorial_pages import Block, blocks, unlike

pytestmark = pytest.mark.full

PAGES = ("first-pipeline.md", "break-and-restore.md")
PREDICT = "../how-to/predict.md"
MLFLOW = "127.0.0.1:15000"
"""Where a reader finds MLflow; the test's stack has moved ports."""


def commands(page: str) -> list[Block]:
    """The blocks of a page that are run: what is marked `not run` must say why."""
    text = (project_root() / "docs" / "tutorial" / page).read_text(encoding="utf-8")
    run = [block for block in blocks(text) if block.language in ("sh", "python")]
    assert all(len(block.mark) > len("not run: ") for block in run if block.mark.startswith("not run"))
    return [block for block in run if not block.mark.startswith("not run")]


def execute(project: Project, page: str) -> None:
    """Run a page; the first block that does not do what the page says fails the test."""
    for block in commands(page):
        program = ["bash", "-e"] if block.language == "sh" else [sys.executable, "-"]
        code, output = project.run(program, block.text.replace(MLFLOW, project.mlflow))
        told = f"{page}:\n{block.text}\nexit code {code}, output:\n{output}"
        assert (code != 0) == (block.mark == "fails"), told
        missing = unlike(output, block.shown) if block.shown is not None else None
        assert missing is None, f"the page shows '{missing}'\n{told}"


def test_every_page_of_the_tutorial_is_run() -> None:
    folder = project_root() / "docs" / "tutorial"
    assert {file.name for file in folder.glob("*.md")} == set(PAGES)
    assert all(len(commands(page)) >= 8 for page in PAGES)


@pytest.fixture(scope="module")
def finished(project: Project) -> Project:
    """The project of a reader who is at the end: two versions of a model, whose data nobody else touches."""
    for page in PAGES:
        execute(project, page)
    return project


def test_the_tutorial_does_what_it_says(finished: Project) -> None:
    assert "bike_rentals" in finished.typed("pipeline list")


def test_the_champion_predicts_in_a_program_of_its_reader(finished: Project) -> None:
    execute(finished, PREDICT)


def champion(project: Project) -> str:
    """The version that is champion. `model show` compares the files of all versions, too, which takes seconds."""
    models = json.loads(project.typed("model list --json"))["models"]
    return next(str(model["champion"]["version"]) for model in models if model["model"] == "bike_rentals")


def test_two_versions_are_compared_and_the_first_is_champion_again_after_a_roll_back(finished: Project) -> None:
    compared = json.loads(finished.typed("model compare bike_rentals 1 2 --json"))
    assert compared["model"] == "bike_rentals"
    assert "mae" in finished.typed("model compare bike_rentals 1 2")
    assert champion(finished) == "2"
    planned = finished.typed("model roll-back bike_rentals")
    assert "version 1 becomes champion in place of version 2" in planned and "Nothing was changed." in planned
    assert champion(finished) == "2"
    assert "done: version 1 is champion" in finished.typed("model roll-back bike_rentals --yes")
    assert "Version 1: champion" in finished.typed("model show bike_rentals")


LOSE_A_PART = """
from rempart.flows.shared.platform import open_platform
from rempart.ingestion import snapshots

site = open_platform().active_site("internal")
site.delete("lake", snapshots.current(site, "lake", "bike_rentals").parts[0].key)
"""


def test_a_lost_part_of_the_snapshot_is_told_until_it_is_restored(finished: Project) -> None:
    code, output = finished.run([sys.executable, "-"], LOSE_A_PART)
    assert code == 0, output
    told = finished.typed("pipeline show bike_rentals", code=1)
    assert "MISSING at site 'primary': 1 of the snapshot's objects" in told
    command = "restore --only dataset:bike_rentals"
    assert f"Bring them back: rempart {command}" in told
    finished.typed(f"{command} --yes")
    assert "MISSING" not in finished.typed("pipeline show bike_rentals")


def test_a_delivery_that_is_held_back_ends_the_run_with_the_next_command(finished: Project) -> None:
    names, *rows = (finished.root / "data/tutorial/bike_rentals_january.csv").read_text().splitlines()[:4]
    bad = [",".join([*row.split(",")[:-1], "-1"]) for row in rows]
    (finished.root / "held.csv").write_text("\n".join([names, *bad]) + "\n")
    finished.typed("pipeline deliver bike_rentals held.csv")
    told = finished.typed("pipeline run bike_rentals --follow", code=1)
    assert "ingest       FAILED after" in told and "3 of 3 rows were refused" in told
    assert "What to do: Run `rempart quarantine show bike_rentals`" in told
    assert "rempart quarantine again bike_rentals" in finished.typed("quarantine show bike_rentals")
