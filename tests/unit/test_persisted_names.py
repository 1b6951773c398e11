"""Persisted names do not change, and strings that name code by its path name existing code."""

from __future__ import annotations

from tests import persisted_names


def test_persisted_names_are_those_on_record() -> None:
    """A name that changed on purpose: write the record anew with `python -m tests.persisted_names`."""
    assert persisted_names.KEPT.read_text(encoding="utf-8") == persisted_names.written()
    assert all(persisted_names.sections().values())
    assert persisted_names.sections()["leases"] == set(persisted_names.LEASES)


def test_code_is_named_by_strings_and_documents() -> None:
    """One that is not there any more is in the record as a name that is no code."""
    assert len(persisted_names.dotted_strings()) >= 10
    assert len(persisted_names.dotted_in_texts()) >= 30


def test_every_path_that_documents_builds_deployments_and_hints_name_is_there() -> None:
    named = persisted_names.paths_in_texts()
    assert len(named) >= 60
    missing = [f"{file}: {path}" for file, path in sorted(named) if not (persisted_names.ROOT / path).exists()]
    assert missing == []
