"""Tables of a database that another release created."""

from __future__ import annotations

from pathlib import Path

from rempart.deployment.servers import tables
from rempart.deployment.servers.tables import OtherTable

ROOT = Path(__file__).resolve().parents[4]


def test_the_script_says_which_columns_its_tables_have() -> None:
    found = tables.of_script(ROOT, "continuity")
    assert found.keys() == {"lease", "replica", "comparison", "active_site"}
    assert found["active_site"] == {"generation", "site", "state", "switchover", "at"}
    assert "sha256" in found["replica"] and len(found["replica"]) == 20
    assert found["comparison"] == {"source", "target", "bucket", "at"}


def test_a_table_with_other_columns_is_named_and_one_that_does_not_exist_yet_is_not() -> None:
    wanted = {"active_site": frozenset({"site", "switchover"}), "lease": frozenset({"name"}), "new": frozenset({"a"})}
    found = {"active_site": frozenset({"site", "journey"}), "lease": frozenset({"name"}), "of_others": frozenset({"b"})}
    assert tables.compare("continuity", wanted, found) == (
        OtherTable("continuity", "active_site", lacks=("switchover",), has=("journey",)),
    )
    assert tables.compare("continuity", wanted, {}) == ()
