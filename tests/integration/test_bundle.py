"""The program that opens a bundle, alone, at a real site: it finds, verifies, fetches and installs the bundle."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rempart.backup.bundle import bundle, open_bundle
from rempart.backup.bundle.bundle import BundleIdentity, Index
from rempart.errors import SiteError
from rempart.flows.bundle.bundle_contents import archive, held
from rempart.flows.shared.platform import Platform
from rempart.ledger.keys import to_pem

pytestmark = pytest.mark.stores

ENTRY = """
import os, pathlib
(pathlib.Path(__file__).parent / ".venv/tools/bin").mkdir(parents=True)
print("installs of", sorted(os.listdir(os.environ["PIP_FIND_LINKS"])))
"""


def test_a_bundle_comes_from_a_real_site_and_what_was_altered_there_does_not(
    platform: Platform, tmp_path: Path
) -> None:
    site, signer = platform.site("haven", "internal"), platform.signer()
    bucket = f"bundle-{secrets.token_hex(4)}"
    site.ensure_bucket(bucket, versioned=True, locked=True)
    sources = {name: tmp_path / name for name in ("code.tar.gz", "restic", "wheels/a-1.whl")}
    (tmp_path / "wheels").mkdir()
    (tmp_path / "entry.py").write_text(ENTRY)
    archive({"entry.py": tmp_path / "entry.py"}, sources["code.tar.gz"])
    sources["restic"].write_bytes(os.urandom(3 << 20))
    sources["wheels/a-1.whl"].write_bytes(b"wheel")
    now = datetime.now(UTC)
    files = {name: held(file) for name, file in sources.items()}
    contents = BundleIdentity("1" * 64, "2" * 64, "3" * 64, *open_bundle.this_machine())
    index = Index(now, contents, files, "entry.py", signer.id)
    until = now + timedelta(minutes=2)
    key, sent = bundle.store(site, bucket, index, signer, sources.__getitem__, until, {})
    assert sent == index.bytes and (bundle.locked_until(site, bucket, key) or now) > now
    version = site.head(bucket, key).version_id
    with pytest.raises(SiteError):
        site.delete(bucket, key, version_id=version)
    public = tmp_path / "public.pem"
    public.write_text(to_pem(signer.public))
    connection = platform.connections("s3_haven")

    def opened(folder: str, password: str = connection.password) -> tuple[int, str]:
        words = [str(tmp_path / folder), "--endpoint", str(connection.extra["endpoint_url"]), "--bucket", bucket]
        words += ["--region", str(connection.extra["region_name"]), "--trust", str(public)]
        variables = {"AWS_ACCESS_KEY_ID": connection.login, "AWS_SECRET_ACCESS_KEY": password, "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, "-I", open_bundle.__file__, *words]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    code, told = opened("to")
    assert code == 0 and key in told and "installs of ['a-1.whl']" in told and "operator-is-gone.md" in told
    assert (tmp_path / "to" / "rempart" / ".venv/tools/bin/restic").read_bytes() == sources["restic"].read_bytes()
    code, told = opened("nowhere", "wrong")
    assert code == 1 and "answered 403" in told and "wrong" not in told
    site.write(bucket, bundle.file_key(files["wheels/a-1.whl"]), b"WHEEL")
    code, told = opened("altered")
    assert code == 1 and "wheels/a-1.whl differs from the signed file" in told
