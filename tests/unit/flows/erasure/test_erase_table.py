"""After an erasure no reader of the Delta table sees the rows, and nothing that was derived from them is left."""

from __future__ import annotations

import json
from pathlib import Path

import deltalake
import pytest

from rempart.errors import SiteError
from rempart.flows.erasure import erase as flow
from rempart.flows.erasure import erase_report, erase_versions
from rempart.flows.ingestion import delta_log, profile
from rempart.ingestion import erasing, snapshots
from rempart.ingestion.delta import log
from tests.erasable import ROWS, Lake
from tests.unit.flows.erasure.booked import WHO, copied, erase, without_features

NAME = "hotel_bookings"
LOG = log.folder(NAME)
ASIDE = f"conflicts/3/{log.version_key(NAME, 1)}"


@pytest.fixture(autouse=True)
def no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    return without_features(monkeypatch)


@pytest.fixture
def lake(first: Lake) -> Lake:
    """A log of two versions and a profile at both sites; old versions of objects, and a copy of a conflict."""
    made = copied(first)
    home = made.site("primary")
    now = snapshots.current(home, made.bucket, NAME)
    assert now
    assert profile.make(made.platform, made.pipeline, [None]).made == (now.id,)
    made.replicate()
    made.replicate()
    for name in ("primary", "haven"):
        site = made.site(name)
        site.write(made.bucket, ASIDE, site.read(made.bucket, log.version_key(NAME, 1)))
        site.delete(made.bucket, log.version_key(NAME, 0))  # hidden: its version is still there
    home.write(made.bucket, log.version_key(NAME, 0), made.site("haven").read(made.bucket, log.version_key(NAME, 1)))
    home.write(made.bucket, log.version_key(NAME, 0), log.commit(log.State(), older(made)) or b"")
    return made


def older(made: Lake) -> snapshots.Snapshot:
    home = made.site("primary")
    now = snapshots.current(home, made.bucket, NAME)
    assert now and now.previous
    return snapshots.read(home, made.bucket, NAME, now.previous)


def leftovers(made: Lake, *names: str) -> list[str]:
    """Log objects in any version that name a part which is not at their site; profiles in any version."""
    found = []
    for name in names or ("primary", "haven"):
        site = made.site(name)
        there = {info.key for info in site.list(made.bucket)}
        for info in site.versions(made.bucket):
            where = f"{name}/{info.key}"
            if info.key.startswith("profiles/") or (info.marker and LOG in info.key):
                found.append(where)
            elif LOG in info.key and info.key.endswith(".json"):
                body = site.read(made.bucket, info.key, version_id=info.version_id)
                added = [json.loads(line)["add"]["path"] for line in body.splitlines() if b'"add"' in line[:8]]
                found += [where for path in added if f"{log.root(NAME)}{path}" not in there]
    return sorted(set(found))


def read(made: Lake, folder: Path) -> set[int]:
    """The bookings that a reader finds at the home site."""
    for info in made.site("primary").list(made.bucket, log.root(NAME)):
        file = folder / info.key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(made.site("primary").read(made.bucket, info.key))
    return set(deltalake.DeltaTable(str(folder / log.root(NAME))).to_pyarrow_table()["booking_id"].to_pylist())


def agrees(made: Lake) -> None:
    """Assert that the table at home is its current snapshot, and the log begins with it."""
    home = made.site("primary")
    now = snapshots.current(home, made.bucket, NAME)
    state, checkpoints = delta_log.read(home, made.bucket, NAME)
    assert now and state.snapshot == now.id and checkpoints == [state.version]
    assert set(state.files) == {part.key.removeprefix(log.root(NAME)) for part in now.parts}
    assert len(list(home.versions(made.bucket, LOG))) == 2


def test_no_version_of_the_log_names_an_erased_part_and_no_profile_is_left(lake: Lake, tmp_path: Path) -> None:
    assert WHO in read(lake, tmp_path / "before")
    done = erase(lake, WHO)
    assert not done.pending and lake.holders(WHO) == [] and leftovers(lake) == []
    agrees(lake)
    assert read(lake, tmp_path / "after") == read(lake, tmp_path / "before") - {WHO}
    assert not list(lake.site("haven").versions(lake.bucket, LOG))
    assert not [info for name in ("primary", "haven") for info in lake.site(name).versions(lake.bucket, "conflicts/")]
    ended = next(r.body for r in lake.platform.ledger.find("erasure") if r.body["state"] == "ended")
    assert ended["derived"]["Delta log"] > 4 and ended["derived"]["profiles"] >= 2
    assert any("versions of profiles" in line for line in erase_report.lines(done))
    lake.replicate()
    state, _ = delta_log.read(lake.site("haven"), lake.bucket, NAME)
    assert state.snapshot and leftovers(lake) == []
    assert lake.take_in("three", ROWS[20:22]).table_fault is None
    assert delta_log.read(lake.site("primary"), lake.bucket, NAME)[0].version == state.version + 1


def test_the_log_goes_before_the_parts_and_a_killed_erasure_is_completed(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as during, pytest.raises(KeyboardInterrupt):
        during.setattr(erase_versions, "delete_unless_locked", killed)
        erase(lake, WHO)
    assert lake.holders(WHO, "primary") and leftovers(lake, "primary") == []
    agrees(lake)
    (again,) = flow.again(lake.platform)
    assert not again.pending and lake.holders(WHO) == [] and leftovers(lake) == []
    agrees(lake)


def test_a_site_whose_log_cannot_be_withdrawn_keeps_its_parts_and_is_pending(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*given: object) -> None:
        raise SiteError("delete at site 'haven': refused", "Ask.")

    with monkeypatch.context() as during:
        during.setattr(delta_log, "withdraw", refused)
        done = erase(lake, WHO)
    assert done.silent == {"haven": "delete at site 'haven': refused"} and lake.holders(WHO, "haven")
    assert leftovers(lake, "primary") == []
    (again,) = flow.again(lake.platform)
    assert not again.pending and lake.holders(WHO) == [] and leftovers(lake) == []


def test_objects_of_the_log_have_no_kind() -> None:
    for key in (log.version_key(NAME, 3), f"{LOG}00000000000000000010.checkpoint.parquet", ASIDE):
        assert erasing.kind_of(key, NAME) is None
    assert erasing.kind_of(f"{log.root(NAME)}{'a' * 32}.json", NAME) == "manifest"
