"""A file that is still a draft promotes no model: its guesses may leak, and nobody decided them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rempart.flows.training.validate import draft_faults
from rempart.settings import pipelines


def test_only_a_decided_file_promotes_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines, "pipelines_dir", lambda: tmp_path)
    (tmp_path / "rides.yaml").write_text("name: rides\nkey: [ride]  # CHECK: unique?\n")
    (told,) = draft_faults("rides")
    assert told.startswith("include/pipelines/rides.yaml: It is still a draft: decide the 1 line marked CHECK (line 2)")
    (tmp_path / "rides.yaml").write_text("name: rides\nkey: [ride]\n")
    assert draft_faults("rides") == draft_faults("removed_since") == ()
