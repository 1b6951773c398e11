"""The bundle's index and the program that opens it: only signed files are taken."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.backup.bundle import bundle, open_bundle
from rempart.backup.bundle.bundle import BundleFile, BundleIdentity, Index
from rempart.backup.bundle.open_bundle import Bucket, BundleRefused
from rempart.errors import IntegrityError
from rempart.ledger.keys import signer, to_pem
from rempart.sites.port import ObjectInfo
from tests.memory_site import MemorySite

KEY, OTHER = signer(bytes(31) + b"\1"), signer(bytes(31) + b"\2")
TRUSTED = {KEY.id: KEY.public}
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
UNTIL = datetime(2099, 1, 1, tzinfo=UTC)
MACHINE = ("3.11", "linux-x86_64")
CONTENTS = BundleIdentity("1" * 64, "2" * 64, "3" * 64, *MACHINE)


def held(body: bytes) -> BundleFile:
    return BundleFile(hashlib.sha256(body).hexdigest(), len(body))


BODIES = {"code.tar.gz": b"code", "restic": b"program", "wheels/a-1-py3-none-any.whl": b"wheel" * 100}
INDEX = Index(NOW, CONTENTS, {name: held(body) for name, body in BODIES.items()}, "setup.py", KEY.id)


@pytest.fixture
def site() -> MemorySite:
    made = MemorySite("haven")
    made.ensure_bucket("backups", versioned=True, locked=True)
    return made


@pytest.fixture
def stored(site: MemorySite, tmp_path: Path) -> str:
    return bundle.store(site, "backups", INDEX, KEY, lambda name: written(tmp_path, name), UNTIL, {})[0]


def written(folder: Path, name: str) -> Path:
    file = folder / "from" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(BODIES[name])
    return file


def opener(site: MemorySite) -> open_bundle.Open:
    def opened(key: str) -> AbstractContextManager[BinaryIO]:
        return site.open("backups", key)

    return opened


def fetched(site: MemorySite, folder: Path, keys: dict[str, bytes] = TRUSTED) -> int:
    names = [info.key for info in site.list("backups", "bundle/")]
    index = open_bundle.choose(names, opener(site), keys, MACHINE)
    return open_bundle.bring(index, opener(site), folder)


def test_what_was_stored_comes_back_and_only_once(
    site: MemorySite, stored: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "to"
    assert fetched(site, folder) == sum(map(len, BODIES.values())) and stored in caplog.messages[0]
    assert {name: (folder / name).read_bytes() for name in BODIES} == BODIES
    (folder / "restic").write_bytes(b"PROGRAM")  # of the same size: its bytes are compared
    assert fetched(site, folder) == len(BODIES["restic"])
    assert fetched(site, folder) == 0


def test_everything_of_it_is_locked_and_the_program_stands_beside_it(site: MemorySite, stored: str) -> None:
    infos = [*site.versions("backups", "bundle/")]
    assert {bundle.OPENER, stored} < {info.key for info in infos}
    assert all(site.retained_until("backups", info.key, info.version_id or "") == UNTIL for info in infos)
    assert site.read("backups", bundle.OPENER) == Path(open_bundle.__file__).read_bytes()


def test_a_file_that_was_replaced_is_refused(site: MemorySite, stored: str, tmp_path: Path) -> None:
    site.write("backups", bundle.file_key(INDEX.files["restic"]), b"PROGRAM")
    with pytest.raises(BundleRefused, match="restic differs from the signed file"):
        fetched(site, tmp_path / "to")
    assert not (tmp_path / "to" / "restic").exists()


@pytest.mark.parametrize("change", [b"code.tar.gz", b"setup.py", b'"size":'])
def test_an_index_that_was_changed_is_passed_by_and_alone_it_is_refused(
    change: bytes, site: MemorySite, stored: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = site.read("backups", stored)
    later = stored.replace("bundle/2026", "bundle/2027")
    site.write("backups", later, body.replace(change, change[:-1] + b"x"))
    fetched(site, tmp_path / "to")
    assert f"skipped {later}" in caplog.messages[0] and stored in caplog.messages[1]
    found = bundle.newest(site, "backups", TRUSTED, MACHINE)
    assert found == (stored, INDEX) and later in caplog.messages[-1]
    with pytest.raises(IntegrityError, match="read an index of the bundle"):
        bundle.decode(site.read("backups", later), TRUSTED)
    with pytest.raises(BundleRefused, match="no signed bundle"):
        fetched(site, tmp_path / "other", {OTHER.id: OTHER.public})


def test_a_bundle_for_another_python_is_named_and_not_taken(site: MemorySite, stored: str, tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match=r"for Python 3\.13 on linux-x86_64.*there is a bundle for Python 3\.11"):
        open_bundle.choose([stored], opener(site), TRUSTED, ("3.13", "linux-x86_64"))


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "wheels/../../x", ".hidden", "a/b"])
def test_a_name_that_leads_out_of_the_folder_is_refused_though_it_is_signed(name: str) -> None:
    body = bundle.encode(dataclasses.replace(INDEX, files={name: held(b"x")}), KEY)
    with pytest.raises(BundleRefused, match="form"):
        open_bundle.read_index(body, TRUSTED)


def test_a_file_that_somebody_put_there_first_is_read_before_it_counts(
    site: MemorySite, stored: str, tmp_path: Path
) -> None:
    strange = held(b"stranger")
    later = dataclasses.replace(INDEX, files={**INDEX.files, "wheels/b-1-py3-none-any.whl": strange})
    site.write("backups", bundle.file_key(strange), b"STRANGER")
    file = tmp_path / "b"
    file.write_bytes(b"stranger")
    known = {bundle.file_key(indexed): indexed for indexed in INDEX.files.values()}
    assert bundle.store(site, "backups", later, KEY, lambda name: file, UNTIL, known)[1] == 8
    assert site.read("backups", bundle.file_key(strange)) == b"stranger"


FILES = st.dictionaries(st.sampled_from([f"wheels/{name}.whl" for name in "abcdef"]), st.binary(max_size=3), max_size=6)


@given(wanted=FILES, there=FILES, vouched=st.booleans())
def test_what_is_sent_is_exactly_what_nobody_vouches_for_at_the_site(
    wanted: dict[str, bytes], there: dict[str, bytes], vouched: bool
) -> None:
    index = dataclasses.replace(INDEX, files={name: held(body) for name, body in wanted.items()})
    bodies = list(map(held, there.values()))
    present = {bundle.file_key(body): ObjectInfo(bundle.file_key(body), body.size, NOW) for body in bodies}
    known = {bundle.file_key(body): body for body in bodies} if vouched else {}
    lacking = bundle.to_send(index, present, known)
    assert set(lacking) == {name for name, body in wanted.items() if not (vouched and held(body) in bodies)}


# --- the program alone ------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    seed=st.binary(min_size=32, max_size=32), text=st.binary(max_size=80), at=st.integers(0, 95), by=st.integers(1, 255)
)
def test_signatures_verify_as_the_ledger_makes_them_and_no_other(seed: bytes, text: bytes, at: int, by: int) -> None:
    made = signer(seed)
    signature = made.sign(text)
    assert open_bundle.verifies(made.public, signature, text)
    assert not open_bundle.verifies(made.public, signature, text + b".")
    whole = bytearray(made.public + signature)
    whole[at] ^= by
    assert not open_bundle.verifies(bytes(whole[:32]), bytes(whole[32:]), text)


def test_a_signature_with_a_scalar_that_is_too_large_is_refused() -> None:
    signature = KEY.sign(b"text")
    scalar = int.from_bytes(signature[32:], "little") + open_bundle.L
    assert not open_bundle.verifies(KEY.public, signature[:32] + scalar.to_bytes(32, "little"), b"text")
    assert not open_bundle.verifies(b"\xff" * 32, signature, b"text")


def test_public_keys_are_read_as_the_ledger_exports_them() -> None:
    assert open_bundle.public_keys([to_pem(KEY.public) + to_pem(OTHER.public)]) == TRUSTED | {OTHER.id: OTHER.public}
    assert open_bundle.public_keys(["no key"]) == {}


@pytest.mark.parametrize(("virtual", "key"), [(False, "bundle/files/" + "0" * 64), (True, "bundle/odd name+é")])
def test_requests_are_signed_as_botocore_signs_them(virtual: bool, key: str) -> None:
    from urllib.parse import quote

    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    bucket = Bucket("https://s3.example:8443", "fr-par", "backups", "AKIA", "not a secret", virtual=virtual)
    host = "backups.s3.example:8443" if virtual else "s3.example:8443"
    path = f"{'' if virtual else '/backups'}/{quote(key, safe='/')}"
    for query in ("", "list-type=2&prefix=bundle%2F2&start-after=bundle%2F2x"):
        query = "&".join(sorted(query.split("&"))) if query else ""
        ours = bucket.request(path, query, NOW)
        theirs = AWSRequest("GET", f"https://{host}{path}" + (f"?{query}" if query else ""))
        theirs.headers["x-amz-content-sha256"] = hashlib.sha256(b"").hexdigest()
        auth = S3SigV4Auth(Credentials("AKIA", "not a secret"), "s3", "fr-par")
        theirs.context["timestamp"] = theirs.headers["X-Amz-Date"] = f"{NOW:%Y%m%dT%H%M%SZ}"
        canonical = auth.canonical_request(theirs)
        signature = auth.signature(auth.string_to_sign(theirs, canonical), theirs)
        assert ours.get_header("Authorization", "").endswith(f"Signature={signature}")


def test_it_runs_alone_and_says_what_it_lacks(tmp_path: Path) -> None:
    alone = tmp_path / "open_bundle.py"
    alone.write_bytes(Path(open_bundle.__file__).read_bytes())
    (tmp_path / "public.pem").write_text(to_pem(KEY.public))
    words = [str(tmp_path / "to"), "--endpoint", "http://127.0.0.1:1", "--trust", str(tmp_path / "public.pem")]
    done = subprocess.run(
        [sys.executable, "-I", str(alone), *words], capture_output=True, text=True, check=False, env={"PATH": ""}
    )
    assert done.returncode == 1 and "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set" in done.stderr


def test_an_installation_sees_the_wheels_alone_and_gets_restic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rempart.flows.bundle.bundle_contents import archive

    entry = tmp_path / "entry.py"
    entry.write_text(
        "import os, pathlib, shutil, sys\n"
        "bin = pathlib.Path(__file__).parent / '.venv/tools/bin'\n"
        "bin.mkdir(parents=True)\n"
        "seen = {k: v for k, v in os.environ.items() if k.startswith(('PIP_', 'UV_'))}\n"
        "(bin / 'seen').write_text(repr(seen) + (shutil.which('restic') or 'none'))\n"
    )
    archive({"entry.py": entry}, tmp_path / "code.tar.gz")
    (tmp_path / "restic").write_text("#!/bin/sh\n")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example")
    home = open_bundle.install({"entry": "entry.py"}, tmp_path)
    seen = (home / ".venv/tools/bin/seen").read_text()
    assert "PIP_NO_INDEX" in seen and str(tmp_path / "wheels") in seen and "index.example" not in seen
    assert str(tmp_path / "tools" / "restic") in seen and (home / ".venv/tools/bin/restic").stat().st_mode & 0o100
    entry.write_text("raise SystemExit(3)\n")
    archive({"entry.py": entry}, tmp_path / "code.tar.gz")
    with pytest.raises(BundleRefused, match="installation failed"):
        open_bundle.install({"entry": "entry.py"}, tmp_path)
