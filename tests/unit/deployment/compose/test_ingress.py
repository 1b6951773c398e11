"""A certificate for the gate: copied as a file, validated before anything is written, and never quoted."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bench.outside import make_pair
from rempart.deployment.compose import containers, ingress
from rempart.deployment.setup import paths
from rempart.errors import StackError
from rempart.settings import config
from rempart.settings.config import read_env_file

ROOT = Path(__file__).resolve().parents[4]
NOW = datetime.now(UTC)


def init(tmp_path: Path, given: ingress.CertificatePair | None) -> dict[str, str]:
    stack = paths.Stack(ROOT, tmp_path / "var", config.load(ROOT / "rempart.yaml"), python="/usr/bin/python3")
    containers.initialise(stack, tmp_path / ".env", {}, pair=given)
    return read_env_file(tmp_path / ".env")


def test_a_certificate_stays_and_another_one_is_another(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("REMPART_LISTEN=0.0.0.0\nREMPART_HOST=ml.example.eu\n", "utf-8")
    first = init(tmp_path, make_pair(tmp_path, "ml.example.eu"))
    file = tmp_path / "var" / "compose" / "gate.pem"
    assert "BEGIN CERTIFICATE" in file.read_text("utf-8") and "PRIVATE KEY" in file.read_text("utf-8")
    assert stat.S_IMODE(file.stat().st_mode) == 0o444 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert (first["REMPART_SCHEME"], first["REMPART_LISTEN"]) == ("https", "0.0.0.0")  # noqa: S104 # it has TLS
    assert "KEY" not in (tmp_path / ".env").read_text("utf-8")
    assert init(tmp_path, None) == first, "as `make images` runs it"
    assert (
        init(tmp_path, make_pair(tmp_path, "*.example.eu", "x"))["REMPART_CERTIFICATE"] != first["REMPART_CERTIFICATE"]
    )


def test_without_a_certificate_pages_stay_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("REMPART_LISTEN=0.0.0.0\n", "utf-8")
    with pytest.raises(
        StackError, match=r"REMPART_LISTEN is 0\.0\.0\.0, so passwords would cross the network"
    ) as refused:
        init(tmp_path, None)
    assert "--certificate FILE --key FILE" in refused.value.hint
    assert not (tmp_path / "var" / "compose" / "secrets.env").exists()
    gate = (ROOT / "deploy" / "images" / "gate.cfg").read_text("utf-8")
    assert '.if !streq("$REMPART_LISTEN",127.0.0.1)\n.alert' in gate, "whoever edits .env alone is told by the gate"


@pytest.mark.parametrize(
    ("names", "changes", "told"),
    [
        (("127.0.0.1",), {"until": NOW - timedelta(days=1)}, r"is valid from .* and today is"),
        (("ml.example.eu",), {}, r"it is for ml\.example\.eu, but REMPART_HOST is 127\.0\.0\.1"),
        (("127.0.0.1",), {"password": b"shut"}, "the key is encrypted"),
    ],
)
def test_a_certificate_that_browsers_would_refuse_is_refused_here(
    tmp_path: Path, names: tuple[str, ...], changes: dict[str, datetime], told: str
) -> None:
    with pytest.raises(StackError, match=told) as refused:
        init(tmp_path, make_pair(tmp_path, *names, **changes))  # type: ignore[arg-type] # one of the two, by name
    assert refused.value.hint and "PRIVATE" not in str(refused.value)


def test_a_key_of_another_certificate_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    pair, other = make_pair(tmp_path, "127.0.0.1"), make_pair(tmp_path, "a.example", "127.0.0.1")
    with pytest.raises(StackError, match="the key belongs to another certificate"):
        init(tmp_path, ingress.CertificatePair(pair.certificate, other.key))
    with pytest.raises(StackError, match="absent: FileNotFoundError"):
        init(tmp_path, ingress.CertificatePair(pair.certificate, tmp_path / "absent"))


@pytest.mark.parametrize(
    ("name", "host", "covers"),
    [
        ("ml.example.eu", "ML.example.eu", True),
        ("*.example.eu", "ml.example.eu", True),
        ("*.example.eu", "a.ml.example.eu", False),
        ("*.example.eu", "example.eu", False),
        ("192.0.2.7", "192.0.2.7", True),
    ],
)
def test_names_are_compared_as_browsers_do(name: str, host: str, covers: bool) -> None:
    assert ingress._covers([name], host) is covers
