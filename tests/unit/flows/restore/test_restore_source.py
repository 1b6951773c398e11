"""Opening a restore point without a platform: identity, trusted keys, the chain up to a break, and the printed plan."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from rempart.backup.keys import age
from rempart.backup.points import chain
from rempart.errors import ConfigError, ConnectionMissing, DatabaseUnavailable, IntegrityError, KeyWrong, LedgerError
from rempart.flows.restore import restore_report
from rempart.flows.restore.restore_source import Wish, identity_of, job_folders, plan, trusted_of, verified
from rempart.ledger.keys import signer, to_base64, to_pem
from rempart.settings.config import Connection
from tests.restorable import ESCROW, NOW, SECRETS, SIGNER, TRUSTED, house


def test_public_keys_come_from_files_in_any_form_and_several_in_one(tmp_path: Path) -> None:
    other = signer(bytes(32))
    (tmp_path / "two.pem").write_text(to_pem(SIGNER.public) + to_pem(other.public))
    (tmp_path / "line").write_text(to_base64(other.public) + "\n")
    assert trusted_of([tmp_path / "two.pem"], dict) == {SIGNER.id: SIGNER.public, other.id: other.public}
    assert trusted_of([tmp_path / "line"], dict) == {other.id: other.public}
    (tmp_path / "bad").write_text("nothing")
    with pytest.raises(LedgerError):
        trusted_of([tmp_path / "bad"], dict)
    with pytest.raises(ConfigError, match="cannot be read"):
        trusted_of([tmp_path / "none"], dict)


def test_without_files_the_platform_is_asked_and_if_it_is_gone_the_option_is_named() -> None:
    assert trusted_of([], lambda: TRUSTED) == TRUSTED

    def gone() -> dict[str, bytes]:
        raise DatabaseUnavailable("no answer", "Start it.")

    with pytest.raises(ConfigError, match="No public key") as refused:
        trusted_of([], gone)
    assert "--trust" in refused.value.hint


def test_the_identity_is_that_of_the_file_else_the_platforms(tmp_path: Path) -> None:
    made = house()
    age.write_identity_file(tmp_path / "escrow", ESCROW, NOW)
    assert identity_of(made.platform, tmp_path / "escrow") == ESCROW

    def missing(name: str) -> Connection:
        raise ConnectionMissing(f"Connection '{name}' is not defined", "Define it.")

    with pytest.raises(ConfigError) as refused:
        identity_of(replace(made.platform, connections=missing), None)
    assert "--identity" in refused.value.hint


def test_links_before_a_break_are_found_however_long_the_chain() -> None:
    made = house()
    for number in range(1, 10):
        chain.append(made.haven, "backups", "20990101T000000Z-abcdef", NOW, f"{number}" * 64, SIGNER, consistent=True)
    stored = chain.read(made.haven, "backups", TRUSTED)
    for broken in range(9):
        bent = [*stored]
        bent[broken] = chain.StoredLink(
            broken + 1, stored[broken].body.replace(b'"consistent":true', b'"consistent":false')
        )
        with pytest.raises(IntegrityError, match=f"broken at link {broken + 1} "):
            verified(bent, TRUSTED)
        assert [link.seq for link in verified(bent, TRUSTED, before_break=True)] == list(range(1, broken + 1))


def test_a_point_opens_with_an_escrow_identity_and_gives_its_secrets_to_nobody_else() -> None:
    made = house()
    point = made.point()
    opened = made.open()
    assert opened.manifest.id == point and opened.secrets() == SECRETS
    with pytest.raises(KeyWrong):
        plan(made.open(identity=age.new_identity()), Wish("haven"))
    assert ESCROW.secret not in repr(opened)


def test_a_model_s_part_has_the_folders_of_its_jobs_and_no_other_folder() -> None:
    tags = [
        {"name": "bikes", "version": "1", "key": "rempart.job_id", "value": "0f" * 8},
        {"name": "bikes", "version": "1", "key": "stage", "value": "candidate"},
        {"name": "bikes", "version": "2", "key": "rempart.job_id", "value": "../keys"},
        {"name": "trips", "version": "1", "key": "rempart.job_id", "value": None},
    ]
    assert job_folders(tags) == {"bikes": {"1": f"jobs/{'0f' * 8}/"}}


def test_what_would_be_restored_is_explained() -> None:
    made = house()
    point = made.point()
    opened = made.open()
    selection = plan(opened, Wish("haven"))
    text = "\n".join(restore_report.explain(opened.manifest, selection, made.clock + timedelta(hours=3)))
    assert f"restore point {point}" in text and "3 h ago" in text.replace("180 min", "3 h")
    assert "dataset:bookings" in text and "to restore: 0 databases (0 B) and 2 objects (1.5 kB)" in text
    later = "\n".join(restore_report.explain(opened.manifest, selection, made.clock - timedelta(hours=3)))
    assert "the creation time is in the future" in later
    made.point(dangling=("model x: gone",))
    found = made.find()
    lines = list(restore_report.listing("haven", found.links, found.present, made.clock))
    assert lines[0].startswith("2 restore points") and "INCOMPLETE" in lines[1] and "INCOMPLETE" not in lines[2]
