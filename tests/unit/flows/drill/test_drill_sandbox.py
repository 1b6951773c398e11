"""The objects that a drill removes and restores and the keys that it opens, tested without a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rempart.backup.databases import postgresql
from rempart.backup.drill import scratch
from rempart.backup.drill.checks import RestoreCheck
from rempart.backup.drill.scratch import Scratch
from rempart.errors import BackupError
from rempart.flows.drill import drill_point, drill_restore, drill_sandbox, drill_steps
from rempart.flows.drill.drill_steps import BegunDrill, StepResult
from rempart.flows.shared.platform import Platform
from tests.restorable import NOW, PLATFORM, TRUSTED, House, house

DRILL = "20990301t120000-abcdef"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> House:
    @contextmanager
    def alone(connection: object, patience: float = 0) -> Iterator[None]:
        yield

    monkeypatch.setattr(scratch, "only_drill", alone)
    monkeypatch.setattr(Platform, "database", lambda self, name: None)
    return house()


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> list[Scratch]:
    spaces: list[Scratch] = []

    def remove(sandbox: object, backups: str, space: Scratch) -> bool:
        spaces.append(space)
        return True

    monkeypatch.setattr(drill_sandbox, "sandbox_of", lambda platform, site, space: None)
    monkeypatch.setattr(drill_sandbox, "_remove", remove)
    return spaces


def restored(made: House) -> None:
    facts = {"databases": {"mlflow": 9}}
    drill_steps.begin(made.platform.ledger, DRILL, "restore", "haven")
    begun = BegunDrill("point", "routine", "haven", NOW, None, True, ("mlflow",), facts=facts)
    drill_steps.record(made.platform.ledger, StepResult(DRILL, "restore", "point", 1.0, (), begun=begun))


def test_a_sandbox_whose_record_the_site_hides_is_removed_once(made: House, removed: list[Scratch]) -> None:
    restored(made)
    done = drill_sandbox.clean_up(made.platform, DRILL)
    assert done.checks == (RestoreCheck(drill_sandbox.REMOVED, True, "databases, bucket and server"),)
    assert [space.databases for space in removed] == [{"mlflow": "drill_20990301t120000_abcdef_mlflow"}]
    assert not drill_sandbox.clean_up(made.platform, DRILL).checks and len(removed) == 1


class Killed(BaseException):
    """SIGKILL, as far as a test in one process can play it."""


def test_x1_the_sandbox_of_a_killed_restore_is_removed_at_its_site(
    made: House, removed: list[Scratch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup writes a point to another site after the kill, as it does after a switchover."""
    made.point(recorded=True)

    def killed(self: drill_restore._Restore, begun: BegunDrill, seeds: object) -> BegunDrill:
        scratch.write(self.site, "backups", scratch.name_scratch(self.drill_id, ["mlflow"]))
        raise Killed

    monkeypatch.setattr(drill_restore._Restore, "run", killed)
    with pytest.raises(Killed):
        drill_restore.restore(made.platform, DRILL, tools=cast(postgresql.Tools, None))
    made.platform.ledger.append("restore-point", "20990302T120000Z-abcdef", {"site": "primary"})
    done = drill_sandbox.clean_up(made.platform, DRILL)
    assert [check.ok for check in done.checks] == [True] and [space.id for space in removed] == [DRILL]


@pytest.mark.parametrize("apart", [timedelta(minutes=-10), timedelta(0), timedelta(minutes=10)])
def test_x4_a_waiting_drill_keeps_its_sandbox_though_the_clocks_of_two_machines_differ(
    made: House, removed: list[Scratch], apart: timedelta
) -> None:
    now = made.platform.clock()
    scratch.write(made.haven, "backups", scratch.name_scratch(DRILL, ["mlflow"]).waiting(now + apart))
    with pytest.raises(BackupError, match="waits for the drill's next step"):
        drill_sandbox.remove_leftovers(made.platform, made.haven, "20990301t120000-012345")
    assert not removed


@pytest.mark.parametrize("apart", [-scratch.PATIENCE, scratch.SKEW + timedelta(minutes=1)])
def test_a_sandbox_that_waited_too_long_or_names_an_impossible_time_is_removed(
    made: House, removed: list[Scratch], apart: timedelta
) -> None:
    now = made.platform.clock()
    scratch.write(made.haven, "backups", scratch.name_scratch(DRILL, ["mlflow"]).waiting(now + apart))
    drill_sandbox.remove_leftovers(made.platform, made.haven, "20990301t120000-012345")
    assert [space.id for space in removed] == [DRILL]


def test_a_drill_that_restored_nothing_waits_for_nobody(
    made: House, removed: list[Scratch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "only_drill", lambda *given: pytest.fail("it waited for another drill"))
    assert not drill_sandbox.clean_up(made.platform, DRILL).checks and not removed


def test_a_drill_opens_keys_from_the_site_of_the_point_alone(made: House, monkeypatch: pytest.MonkeyPatch) -> None:
    point = made.point()
    monkeypatch.setattr(drill_point, "open_keyring", lambda platform: made.ring)
    monkeypatch.setattr(Platform, "trusted_keys", lambda self: TRUSTED)
    manifest = made.open().manifest
    assert manifest.id == point
    opened, _ = drill_point.open_attested(made.platform, made.haven, manifest, before_break=False)
    assert [str(place) for ring in opened.keys.rings for place in ring.places] == ["bucket backups at site 'haven'"]


def test_a_mark_at_a_site_alone_leaves_no_object_out(made: House) -> None:
    made.point({("artifacts", "model/a"): b"a", ("artifacts", "model/b"): b"b"})
    manifest = made.open().manifest
    keys = {(obj.sealed.scope, obj.sealed.serial) for obj in manifest.objects if obj.sealed}
    point: Any = SimpleNamespace(manifest=manifest, keys=SimpleNamespace(destroyed=lambda: keys))
    ledger = made.platform.ledger
    assert len(drill_restore._selection(point, ledger).objects) == 2
    ledger.append("backup-key", PLATFORM.id, {"event": "destroyed", "serials": [serial for _, serial in keys]})
    assert not drill_restore._selection(point, ledger).objects
