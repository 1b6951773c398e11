"""The proof says so when nothing was proved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import prove_egress, sink


def attempt(destination: str, process: str) -> sink.Attempt:
    return sink.Attempt(1.0, "tcp", destination, 443, "", 7, process, "mlflow", ("python supervisord",))


def test_without_root_it_is_not_run_and_not_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("REMPART_VAR", str(tmp_path))
    assert prove_egress.main([]) != 0
    report = json.loads((tmp_path / "proof" / "egress.json").read_text(encoding="utf-8"))
    (check,) = report["checks"]
    assert report["ok"] is False and check["ok"] is None and check["detail"].startswith("not run: ")
    assert "sudo" in capsys.readouterr().err


def test_a_proof_without_its_figure_is_not_ok() -> None:
    proof = prove_egress.Proof()
    proof.check("all else", True)
    assert not proof.ok
    proof.figures["attempts"] = 1
    assert not proof.ok
    proof.figures["attempts"] = 0
    assert proof.ok
    proof.check("a browser", None, "none here")
    assert proof.ok
    proof.check("the demo", False)
    assert not proof.ok


def test_attempts_are_told_by_process_and_destination() -> None:
    seen = [attempt("192.0.2.1", "a"), attempt("192.0.2.1", "b"), attempt("192.0.2.1", "b")]
    first, second = prove_egress.by_destination(seen)
    assert (first["count"], first["process"], second["count"], second["process"]) == (2, "b", 1, "a")
    assert first["destination"] == "tcp 192.0.2.1:443" and first["service"] == "mlflow"
