"""The retirement of a version at two sites in memory: what goes, what stays, and a kill at each step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rempart.backup.points import points
from rempart.errors import ModelRefused, SiteUnavailable, TrainingError
from rempart.flows.retirement import execute, facts
from rempart.flows.shared.platform import Platform
from rempart.flows.training import validate
from rempart.ledger.memory import MemoryLedger
from rempart.models.removal import Registered
from rempart.settings import pipelines
from rempart.settings.pipeline import ModelPipeline
from rempart.sites.port import Site
from tests import searched as searches
from tests.erasable import secrets_in_memory
from tests.switchovers import in_memory

NAME, VERSIONS = "hotel_bookings", ("1", "2", "3", "4", "5")
NOW = datetime(2099, 3, 1, 12, tzinfo=UTC)
OLD = timedelta(days=1000)


@dataclass
class House:
    """A platform in memory, its pipeline, and what MLflow would have. `date`: the ledger's clock."""

    platform: Platform
    pipeline: ModelPipeline
    models: Registered
    date: list[datetime]
    told: list[str] = field(default_factory=list)

    def site(self, name: str) -> Site:
        return self.platform.site(name, "personal")

    def keys(self, name: str = "primary") -> set[str]:
        buckets = self.platform.config.buckets
        return {info.key for bucket in (buckets.lake, buckets.artifacts) for info in self.site(name).versions(bucket)}

    def of(self, version: str) -> set[str]:
        return {key for key in self.keys() | self.keys("haven") if any(part in key for part in _parts(version))}

    def retire(self, version: str | None = None) -> execute.Retired:
        return execute.retire(self.platform, self.pipeline, version, dry_run=False, patience=0)

    def forget(self, tracking: None, name: str, version: str, *given: object) -> None:
        self.told.append(version)
        self.models = Registered(tuple(other for other in self.models.versions if other != version), model=True)


def _parts(version: str) -> tuple[str, ...]:
    return (
        f"m-{version}/",
        f"run-{version}/",
        f"jobs/job-{version}/",
        f"set-{version}.parquet",
        f"held-out-{version}.parquet",
    )


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    """Five versions: 1, 2, 3 and 4 were champion long ago, one after the other; 4 is; 5 was refused today."""
    date = [NOW - OLD]
    plain = in_memory(clock=lambda: NOW)
    rule = plain.config.retention["personal"].model_copy(update={"newest_models": 1})
    platform = replace(
        plain,
        config=plain.config.model_copy(update={"retention": {**plain.config.retention, "personal": rule}}),
        connections=secrets_in_memory,
        ledger_=MemoryLedger(clock=lambda: date[0]),
    )
    pipeline = pipelines.with_model(pipelines.named(NAME))
    made = House(platform, pipeline, Registered(VERSIONS, model=True), date)
    buckets = platform.config.buckets
    for name, bucket in itertools.product(("primary", "haven"), (buckets.lake, buckets.artifacts, buckets.backups)):
        made.site(name).ensure_bucket(bucket, versioned=True)
    for number, version in enumerate(VERSIONS):
        date[0] = NOW if version == "5" else NOW - OLD + number * timedelta(days=1)
        keys = [f"training/{NAME}/set-{version}.parquet", f"training/{NAME}/held-out-{version}.parquet"]
        for site in (made.site("primary"), made.site("haven")):
            for _ in range(2):  # versions of the objects
                for key in keys:
                    site.write(buckets.lake, key, b"rows")
                site.write(buckets.artifacts, f"mlflow/1/models/m-{version}/artifacts/model.onnx", b"model")
                site.write(buckets.artifacts, f"mlflow/1/run-{version}/artifacts/plot.png", b"plot")
                site.write(buckets.artifacts, f"jobs/job-{version}/log.txt", b"log")
        body = {"version": version, "job_id": f"job-{version}", "run_id": f"run-{version}", "model_id": f"m-{version}"}
        body |= {"files": {"model.onnx": "a" * 64}, "outputs": {f"jobs/job-{version}/log.txt": "b" * 64}}
        sets = [{"bucket": buckets.lake, "key": key, "sha256": version * 64} for key in keys]
        body |= {"dataset": {**sets[0], "held_out": sets[1]}}
        platform.ledger.append("candidate", NAME, body)
        if version == "5":
            platform.ledger.append("refusal", NAME, {"version": version, "reasons": ["refused: worse"]})
        else:
            platform.ledger.append("promotion", NAME, {"version": version, "previous": None, "reasons": []})
    date[0] = NOW
    monkeypatch.setattr(Platform, "tracking", lambda self: None)
    monkeypatch.setattr(facts.model_removal, "registered", lambda *given: made.models)
    monkeypatch.setattr(
        execute.model_removal,
        "folders",
        lambda tracking, model, run: (f"1/models/{model}/artifacts/", f"1/{run}/artifacts/"),
    )
    monkeypatch.setattr(execute.model_removal, "remove_version", made.forget)
    return made


def test_old_versions_go_at_every_site_and_the_others_stay_whole(house: House) -> None:
    before = {version: house.of(version) for version in VERSIONS}
    planned = execute.look(house.platform, house.pipeline)
    assert list(planned.retire) == ["1", "2"] and not house.told
    done = house.retire()
    assert list(done.evidence) == ["1", "2"] and not done.left and house.told == ["1", "2"]
    assert done.deleted == 2 * 2 * 2 * 5, "two versions of five objects of two models at two sites"
    assert house.of("1") == house.of("2") == set()
    assert {version: house.of(version) for version in "345"} == {version: before[version] for version in "345"}
    (began, *_) = [r.body for r in house.platform.ledger.find("retirement", NAME) if r.body["version"] == "1"][::-1]
    assert began["files"] == {"model.onnx": "a" * 64} and began["dataset_sha256"] == "1" * 64
    again = house.retire()
    assert not again.evidence and not again.deleted and len(house.platform.ledger.find("retirement", NAME)) == 4


def test_nobody_returns_to_a_retired_version_nor_promotes_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.retire()
    monkeypatch.setattr(validate.registry, "champion", lambda *given: "3")
    house.platform.ledger.append("rollback", NAME, {"champion": "3", "replaces": "4", "alias_was": "4"})
    with pytest.raises(ModelRefused, match=r"version 2 of model hotel_bookings was retired on 2099-03-01"):
        validate.roll_back(house.platform, house.pipeline)
    with pytest.raises(ModelRefused, match="its files were deleted"):
        validate._record(house.platform.ledger, NAME, "1")


@pytest.mark.parametrize("version", ["3", "4"])
def test_the_champion_and_the_one_before_it_are_refused_by_name(house: House, version: str) -> None:
    with pytest.raises(ModelRefused, match=r"is needed: (it is champion|a rollback returns to it)"):
        house.retire(version)
    assert house.of(version) and not house.platform.ledger.find("retirement")


def test_a_young_version_goes_only_by_name(house: House) -> None:
    assert "5" in execute.look(house.platform, house.pipeline).keep
    assert list(house.retire("5").evidence) == ["5"]
    assert house.of("5") == set() and house.of("1")


def test_what_a_restore_point_needs_stays_until_the_point_is_gone(house: House) -> None:
    point = points.new_id(NOW - OLD + timedelta(days=1, hours=1), "cafe0001")
    backups = house.platform.config.buckets.backups
    house.site("haven").write(backups, f"points/{point}/manifest.json", b"{}")
    assert not house.retire().evidence
    house.site("haven").delete(backups, f"points/{point}/manifest.json")
    assert list(house.retire().evidence) == ["1", "2"]


def test_a_site_that_does_not_answer_stops_everything(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*given: object, **named: object) -> Iterator[object]:
        raise SiteUnavailable("list backups at site 'haven': no answer", "Look at the site.")

    monkeypatch.setattr(house.site("haven"), "list", silent)
    with pytest.raises(ModelRefused, match="site 'haven' did not answer"):
        house.retire()
    assert not house.platform.ledger.find("retirement") and house.of("1")


def test_nothing_goes_while_a_record_of_the_ledger_is_altered(house: House) -> None:
    ledger = house.platform.ledger
    assert isinstance(ledger, MemoryLedger)
    (candidate,) = [record for record in ledger.find("candidate", NAME) if record.body["version"] == "3"]
    entry = ledger.chain[candidate.seq - 1]
    ledger.chain[candidate.seq - 1] = replace(entry, text=entry.text.replace("job-3", "job-9"))
    ledger.records.remove(candidate)
    with pytest.raises(ModelRefused, match=f"record {candidate.seq} of the ledger was altered or deleted"):
        house.retire()
    assert house.of("1") and not ledger.find("retirement")
    ledger.chain[candidate.seq - 1] = entry
    assert list(house.retire().evidence) == ["1", "2"]


def dying(house: House, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    """End the process, as a kill would, after so many steps that write or delete."""
    steps = itertools.count()

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any, **named: Any) -> Any:
            if next(steps) == left:
                raise KeyboardInterrupt
            return call(*given, **named)

        return step

    for name in ("primary", "haven"):
        monkeypatch.setattr(house.site(name), "delete", counted(house.site(name).delete))
    monkeypatch.setattr(house.platform.ledger, "append", counted(house.platform.ledger.append))
    monkeypatch.setattr(execute.model_removal, "remove_version", counted(house.forget))


@pytest.mark.parametrize("left", [1, 2, 5, 9, 17, 18, 19])
def test_the_next_run_completes_one_that_was_killed(house: House, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {version: house.of(version) for version in "345"}
    with monkeypatch.context() as during:
        dying(house, during, left)
        with pytest.raises(KeyboardInterrupt):
            house.retire()
    if house.platform.ledger.find("retirement", NAME):
        with pytest.raises(ModelRefused, match="was retired"):  # nobody uses what may be gone by half
            validate._record(house.platform.ledger, NAME, "1")
    house.retire()
    assert house.of("1") == house.of("2") == set() and set(house.told) == {"1", "2"}
    assert {version: house.of(version) for version in "345"} == before
    ended = [r.body["version"] for r in house.platform.ledger.find("retirement", NAME) if r.body["state"] == "ended"]
    assert sorted(ended) == ["1", "2"]


def test_a_training_set_that_a_later_version_has_too_stays(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as during:
        dying(house, during, 1)  # right after the first record
        with pytest.raises(KeyboardInterrupt):
            house.retire()
    ledger = house.platform.ledger
    (first,) = [record.body for record in ledger.find("candidate", NAME) if record.body["version"] == "1"]
    later = {"version": "6", "job_id": "job-6", "run_id": "run-6", "model_id": "m-6"}
    ledger.append("candidate", NAME, {**first, **later})
    ledger.append("promotion", NAME, {"version": "6", "previous": "4", "reasons": []})
    assert "1" in house.retire().evidence
    shared = {f"training/{NAME}/{part}-1.parquet" for part in ("set", "held-out")}
    assert house.of("1") == shared and shared <= house.keys("primary") & house.keys("haven")
    (ended,) = [
        r.body for r in ledger.find("retirement", NAME) if (r.body["version"], r.body["state"]) == ("1", "ended")
    ]
    assert ended["shared"] == sorted(shared)


def test_a_version_that_became_champion_meanwhile_is_kept(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = execute.model_removal.folders

    def meanwhile(*given: Any) -> tuple[str, ...]:
        if not any(r.body["version"] == "1" for r in house.platform.ledger.find("promotion", NAME, limit=1)):
            house.platform.ledger.append("promotion", NAME, {"version": "1", "previous": "4", "reasons": []})
        return folders(*given)

    monkeypatch.setattr(execute.model_removal, "folders", meanwhile)
    assert list(house.retire().evidence) == ["2"]
    assert house.of("1")


def test_one_pipeline_s_failure_is_told_after_the_others(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    other = house.pipeline.model_copy(update={"name": "a_other"})
    monkeypatch.setattr(pipelines, "load_all", lambda: {"a_other": other, NAME: house.pipeline})
    plain = execute.retire

    def failing(platform: Platform, pipeline: ModelPipeline, **named: Any) -> execute.Retired:
        if pipeline is other:
            raise TrainingError("no answer", "Look.")
        return plain(platform, pipeline, **named)

    monkeypatch.setattr(execute, "retire", failing)
    with pytest.raises(TrainingError, match="no answer"):
        execute.retire_all(house.platform, dry_run=False, patience=0)
    assert house.of("1") == set()


def searched(house: House, name: str, days: int, *jobs: str, rows: str = "da") -> None:
    """A search of so many days ago, with the files of its trials at both sites."""
    trials = [searches.trial(number, 20.0 + number) | {"job": job} for number, job in enumerate(jobs)]
    house.date[0] = NOW - timedelta(days=days)
    body = searches.body(search=name, trials=trials, best=0, dataset_sha256=rows * 32)
    house.platform.ledger.append("search", NAME, body)
    house.date[0] = NOW
    bucket = house.platform.config.buckets.artifacts
    for site, job in itertools.product((house.site("primary"), house.site("haven")), jobs):
        site.write(bucket, f"jobs/{job}/model.onnx", b"model")
        site.write(bucket, f"mlflow/1/models/m-{job}/artifacts/model.onnx", b"model")


@pytest.fixture
def forgotten(house: House, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models of trials of which MLflow was told that they are gone."""
    gone: list[str] = []
    by_run = {
        trial["run"]: f"m-{trial['job']}"
        for record in house.platform.ledger.find("search", NAME)
        for trial in record.body["trials"]
    }
    removal = execute.trials.model_removal
    monkeypatch.setattr(removal, "models_of", lambda tracking, run: (by_run.get(run, "m-t-0"),))
    monkeypatch.setattr(removal, "remove_models", lambda tracking, run, models, told: gone.extend(models))
    return gone


def test_the_models_of_old_trials_go_with_evidence_and_those_of_a_young_search_stay(
    house: House, forgotten: list[str]
) -> None:
    searched(house, "old", 500, "t-0")
    searched(house, "young", 5, "t-9", rows="fe")
    planned = execute.look(house.platform, house.pipeline)
    assert list(planned.trials) == ["old"] and any("search old: delete the models" in line for line in planned.lines())
    assert execute.look(house.platform, house.pipeline, "5").trials == {}, "a person named a version, and no search"
    done = house.retire()
    assert list(done.searches) == ["old"] and not done.left and forgotten == ["m-t-0"]
    left = house.keys("primary") | house.keys("haven")
    assert not [key for key in left if "t-0" in key] and [key for key in left if "t-9" in key]
    (record,) = house.platform.ledger.find("trial-retirement", NAME)
    assert (record.body["search"], record.body["jobs"], record.body["deleted"]) == ("old", ["t-0"], 4)
    assert not house.retire().searches


def test_a_killed_retirement_of_trials_is_completed_before_mlflow_forgets_where_the_files_are(
    house: House, forgotten: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    house.retire()
    searched(house, "old", 500, "t-0")
    for left in range(4):
        with monkeypatch.context() as during:
            dying(house, during, left)
            with pytest.raises(KeyboardInterrupt):
                house.retire()
        assert forgotten == [] and not house.platform.ledger.find("trial-retirement")
        searched(house, "old", 500, "t-0")
    assert list(house.retire().searches) == ["old"] and forgotten == ["m-t-0"]
    assert not [key for key in house.keys("primary") | house.keys("haven") if "t-0" in key]


def test_the_job_of_a_version_stays_until_the_version_goes(house: House, forgotten: list[str]) -> None:
    searched(house, "old", 500, "t-0", "job-4")
    house.retire()
    assert forgotten and any("jobs/job-4/" in key for key in house.keys("primary"))
    (record,) = house.platform.ledger.find("trial-retirement", NAME)
    assert record.body["jobs"] == ["t-0"]
