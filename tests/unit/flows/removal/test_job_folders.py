"""A removal takes the files of the pipeline's training jobs with it, at every site, and those of no other pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rempart.errors import SiteError
from rempart.flows.erasure.erase_stores import open_stores
from rempart.flows.removal import execute, jobs
from tests.erasable import Lake

NAME = "hotel_bookings"
FILES = ("checkpoint/5-ab.npz", "model.onnx", "order.json", "result.json", "spec.json")


@pytest.fixture
def trained(lake: Lake) -> Lake:
    """Jobs of the pipeline with and without a candidate, of another pipeline, and one that stored no order."""
    bucket = lake.platform.config.buckets.artifacts
    for name in ("primary", "haven"):
        site = lake.site(name)
        for job, pipeline in (("a1", NAME), ("a2", NAME), ("b1", "stays"), ("b2", "stays")):
            for file in FILES:
                site.write(bucket, f"jobs/{job}/{file}", json.dumps({"pipeline": pipeline}).encode())
        site.write(bucket, f"jobs/a1/{FILES[0]}", b"a second version")
        site.write(bucket, "jobs/c1/checkpoint.json", b"{}")
        site.write(bucket, "mlflow/1/model.onnx", b"of MLflow")
        site.delete(bucket, "jobs/a1/spec.json")  # a candidate's evidence names it, even without its order
        site.delete(bucket, "jobs/a1/order.json")
    for job, pipeline in (("a1", NAME), ("b1", "stays")):
        lake.platform.ledger.append("candidate", pipeline, {"version": "1", "job_id": job})
    return lake


def left(lake: Lake, site: str) -> set[str]:
    bucket = lake.platform.config.buckets.artifacts
    return {info.key.split("/")[1] for info in lake.site(site).versions(bucket) if info.key.startswith("jobs/")}


def no_run() -> list[str]:
    return []


def test_the_plan_counts_them_and_a_removal_deletes_every_version_of_them(trained: Lake, folder: Path) -> None:
    bucket = trained.platform.config.buckets.artifacts
    told = "\n".join(execute.look(trained.platform, trained.pipeline, "remove", no_run).lines())
    assert "files of training jobs" in told
    assert "jobs" not in "\n".join(execute.look(trained.platform, trained.pipeline, "reset", no_run).lines())
    done = execute.remove(trained.platform, trained.pipeline, "remove", no_run)
    assert not done.left
    for site in ("primary", "haven"):
        assert left(trained, site) == {"b1", "b2", "c1"}
        assert trained.site(site).read(bucket, "mlflow/1/model.onnx")
    ended = trained.platform.ledger.find("removal", NAME)[0]
    assert ended.body["state"] == "ended" and ended.body["jobs"] == ["a1", "a2"]


def test_a_site_that_does_not_answer_is_named_by_the_plan(
    trained: Lake, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*given: object, **named: object) -> object:
        raise SiteError("no answer", "Wait.")

    for act in ("versions", "list", "read"):
        monkeypatch.setattr(trained.site("haven"), act, gone)
    told = "\n".join(execute.look(trained.platform, trained.pipeline, "remove", no_run).lines())
    assert "site 'haven' did not answer" in told


def test_what_says_whose_job_it_is_goes_last(trained: Lake, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = trained.platform.config.buckets.artifacts
    home, gone = trained.site("primary"), list[str]()
    delete = home.delete

    def counted(place: str, key: str, **named: object) -> object:
        if place == bucket:
            gone.append(key)
            if len(gone) == 4:
                raise KeyboardInterrupt
        return delete(place, key, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as during:
        during.setattr(home, "delete", counted)
        with pytest.raises(KeyboardInterrupt):
            execute.remove(trained.platform, trained.pipeline, "remove", no_run)
    assert not any(key.endswith(jobs.ORDERS) for key in gone)
    assert jobs.of_pipeline(open_stores(trained.platform), NAME) == {"a1", "a2"}
