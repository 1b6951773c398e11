"""A bundle in a folder: its content, its signature, and that it opens in place."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import shutil
import stat
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rempart.backup.bundle import open_bundle
from rempart.cli import app
from rempart.deployment.compose import images, load_images
from rempart.errors import BackupError, ConnectionMissing, StackError
from rempart.flows.bundle import bundle_folder
from rempart.flows.shared.platform import Platform
from tests.restorable import SIGNER, house
from tests.unit.flows.bundle.test_bundle import SECRET, Project

REFERENCES = ("rempart/airflow:v1", "rempart/gate:v1")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path, monkeypatch)
    (made.root / "data" / "hotel_bookings.csv.gz").write_bytes(b"sample")
    (made.root / "docker-compose.yml").write_text("services: {}\n")
    (made.root / bundle_folder.bundle_contents.ENTRY).write_text(
        "import pathlib, sys\n(pathlib.Path(sys.argv[0]).parents[4] / '.venv/tools/bin').mkdir(parents=True)\n"
    )
    monkeypatch.setattr(bundle_folder, "bill_of_lock", lambda root: "{}")
    monkeypatch.setattr(images, "references", lambda root: REFERENCES)
    monkeypatch.setattr(images, "bill", lambda reference: json.dumps({"of": reference}))
    monkeypatch.setattr(images, "save", lambda wanted, target: target.write_bytes(gzip.compress(b"layers", mtime=0)))
    return made


@pytest.fixture
def written(project: Project, tmp_path: Path) -> Path:
    bundle_folder.write(project.platform, tmp_path / "dist" / "rempart-1")
    return tmp_path / "dist" / "rempart-1"


def opened(folder: Path, *words: str) -> int:
    return open_bundle.main([str(folder), "--trust", f"{folder}.public.pem", *words])


def test_it_holds_code_wheels_images_bills_and_the_sample_and_no_other_data(written: Path) -> None:
    files = {file.relative_to(written).as_posix() for file in written.rglob("*") if file.is_file()}
    (index,) = (name for name in files if name.startswith("bundle/"))
    assert files - {index} == {
        *("code.tar.gz", "restic", "open_bundle.py", "images.tar.gz", "wheels/a-1-py3-none-any.whl"),
        *("sbom/rempart.cdx.json", "sbom/airflow.cdx.json", "sbom/gate.cdx.json"),
    }
    assert set(json.loads((written / index).read_text())["bundle"]["files"]) == files - {index}
    with tarfile.open(written / "code.tar.gz") as archive:
        names = set(archive.getnames())
    assert {"docker-compose.yml", "data/hotel_bookings.csv.gz"} < names and "data/people.csv" not in names


def test_it_is_opened_where_it_lies(written: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert opened(written) == 0
    assert (written / "rempart" / "rempart.yaml").is_file()
    assert "every file matches its signature" in caplog.text


@pytest.mark.parametrize("name", ["restic", "images.tar.gz", "open_bundle.py", "sbom/gate.cdx.json"])
def test_an_altered_byte_is_refused_by_name_and_nothing_is_used(
    name: str, written: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body = (written / name).read_bytes()
    (written / name).write_bytes(bytes([body[0] ^ 1]) + body[1:])
    (written / "wheels" / "a-1-py3-none-any.whl").unlink()
    assert opened(written) == 1 and opened(written, "--containers") == 1
    assert f"{name}, wheels/a-1-py3-none-any.whl. No file" in capfd.readouterr().err
    assert not (written / "rempart").exists()


@pytest.mark.parametrize("name", ["rempart/.venv/rempart-installed", "tools/sh", "wheels/b-1-py3-none-any.whl"])
def test_what_nobody_signed_is_not_used_though_it_looks_like_an_earlier_run(
    name: str, written: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (written / name).parent.mkdir(parents=True, exist_ok=True)
    (written / name).touch()
    assert opened(written) == 1 and opened(written, "--containers") == 1
    told = capfd.readouterr().err
    assert (
        "files without a signature" in told and (name if name.startswith("wheels") else name.partition("/")[0]) in told
    )


def test_a_link_that_leads_out_of_the_folder_is_refused(written: Path, tmp_path: Path) -> None:
    (written / "wheels").rename(tmp_path / "elsewhere")
    (written / "wheels").symlink_to(tmp_path / "elsewhere")
    assert opened(written) == 1 and not (written / "rempart").exists()


def test_another_key_opens_nothing(written: Path, tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_text(bundle_folder.to_pem(b"\1" * 32))
    assert open_bundle.main([str(written), "--trust", str(tmp_path / "other.pem")]) == 1
    assert not (written / "rempart").exists()


def test_the_images_go_to_the_engine_with_any_python_and_settings_name_their_tag(
    written: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loader = written / "rempart" / open_bundle.LOADER
    monkeypatch.setattr(
        open_bundle,
        "_unpack",
        lambda folder, home: (loader.parent.mkdir(parents=True), shutil.copy(load_images.__file__, loader)),
    )
    program = tmp_path / "programs" / "docker"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(open_bundle, "this_machine", lambda: ("3.99", open_bundle.sysconfig.get_platform()))
    assert opened(written) == 1, "of the wheels there are none for this Python"
    assert opened(written, "--containers") == 0
    asked = (tmp_path / "asked").read_text().splitlines()
    assert f"load --quiet --input {written / 'images.tar.gz'}" in asked
    assert "--pull never --network none" in asked[-1] and asked[-1].endswith("rempart/airflow:v1 rempart stack init")
    settings = written / "rempart" / ".env"
    assert settings.read_text() == "REMPART_TAG=v1\n" and stat.S_IMODE(settings.stat().st_mode) == 0o600


def test_without_images_it_is_for_wheels_alone(project: Project, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["bundle", "write", str(tmp_path / "to"), "--no-images"], catch_exceptions=False)
    assert f"signed by key {SIGNER.id}" in told.output and not (tmp_path / "to" / "images.tar.gz").exists()
    assert opened(tmp_path / "to", "--containers") == 1


def test_what_an_engine_does_not_have_stops_it(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match="docker is not installed") as refused:
        images.references(tmp_path)
    assert "--no-images" in refused.value.hint


def test_an_engine_without_compose_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\necho \"unknown flag: --profile\nSee 'docker --help'.\" >&2\nexit 125\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    with pytest.raises(StackError, match="`docker compose` is not installed") as refused:
        images.references(tmp_path)
    assert "apt-get install docker-compose" in refused.value.hint and "--no-images" in refused.value.hint


def test_a_folder_that_holds_something_else_is_left_alone(project: Project, tmp_path: Path, written: Path) -> None:
    mine = tmp_path / "mine" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(BackupError, match="files that are no bundle"):
        bundle_folder.write(project.platform, mine.parent)
    assert mine.read_text() == "mine"
    (written / "left-over").write_text("of the bundle before")
    bundle_folder.write(project.platform, written)
    assert not (written / "left-over").exists()


def test_the_key_of_the_containers_platform_signs_where_no_other_runs(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(self: Platform, connection: str = "") -> None:
        raise ConnectionMissing("Connection 'ledger_key' is not defined", "Run `rempart up`.")

    monkeypatch.setattr(Platform, "signer", lacking)
    platform = dataclasses.replace(house().platform, clock=lambda: project.now)
    with pytest.raises(ConnectionMissing):
        bundle_folder.write(platform, tmp_path / "to", images=False)
    secrets = tmp_path / "var" / "compose" / "secrets.env"
    secrets.parent.mkdir(parents=True)
    seed = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE="
    secrets.write_text(f'AIRFLOW_CONN_LEDGER_KEY={{"conn_type": "ledger", "password": "{seed}"}}\nREMPART_X={SECRET}\n')
    index = bundle_folder.write(platform, tmp_path / "to", images=False)
    assert index.key in (tmp_path / "to" / "bundle").glob("*.json").__next__().read_text()
    (project.root / "rempart.yaml").write_text(f"password: {seed}\n")
    with pytest.raises(BackupError, match=r"rempart\.yaml holds the secret of AIRFLOW_CONN_LEDGER_KEY"):
        bundle_folder.write(platform, tmp_path / "to", images=False)
