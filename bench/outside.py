"""Part of the proof in containers: outgoing connections from inside each container, and the pages by TLS."""

from __future__ import annotations

import http.client
import ipaddress
import re
import ssl
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench import audited
from rempart.deployment.compose.ingress import CertificatePair

EGRESS, PORT = "egress", 13128
Check = Callable[[str, bool, str], None]


class Containers(Protocol):
    """The calls that this module needs of the proof's containers."""

    def inside(self, service: str, script: str) -> tuple[int, str]: ...
    def must(self, *words: str) -> str: ...


def project(root: Path, folder: Path, host: str) -> Path:
    """Create a project folder like `root` whose rempart.yaml allows one more host (`address:port`) and accepts a
    trial's findings.
    """
    stated = yaml.safe_load((root / "rempart.yaml").read_text("utf-8"))
    stated.setdefault("hosts", {})[host] = {"operator": "trial-one", "service": "object-storage", "region": "local-1"}
    stated.setdefault("audit", {}).setdefault("exceptions", []).extend(audited.exceptions())
    folder.mkdir()
    (folder / "rempart.yaml").write_text(yaml.safe_dump(stated, sort_keys=False), "utf-8")
    (folder / "include").symlink_to(root / "include")
    return folder


def answers(containers: Containers, services: Sequence[str], host: str) -> dict[str, str]:
    """Return the proxy's answer to each container that asks for a connection; containers that do not reach it are
    left out.
    """
    script = (
        f"exec 3<>/dev/tcp/{EGRESS}/{PORT} || exit 9; "
        f"printf 'CONNECT {host} HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n' >&3; "
        'read -r -t 10 line <&3; printf "%s" "$line"'
    )
    told = {name: containers.inside(name, script) for name in services}
    return {name: line for name, (code, line) in told.items() if code == 0}


def look(
    containers: Containers,
    services: Sequence[str],
    outward_services: Collection[str],
    denied: str,
    permitted: str,
    check: Check,
) -> None:
    """Check the proxy from inside every container; the `outward_services` share its network. Both hosts answer here."""
    asking = [name for name in services if name != EGRESS]
    wanted = {name for name in outward_services if name != EGRESS}
    told = answers(containers, asking, denied)
    refused = {name for name, line in told.items() if " 403 " in line}
    check(
        "what the policy does not allow is refused by the proxy, which no other container reaches",
        refused == wanted == set(told),
        f"{denied}: {', '.join(f'{name}: {line}' for name, line in sorted(told.items()))}",
    )
    log = containers.must("logs", "--no-log-prefix", EGRESS)
    lines = [line for line in log.splitlines() if line.endswith(f" {denied} denied")]
    named = {name for name in wanted for line in lines if re.search(rf" \S+-{re.escape(name)}-\d+\.", line)}
    check("its log names who asked, and for what", named == wanted, lines[-1] if lines else "it has no such line")
    told = answers(containers, asking, permitted)
    passed = {name for name, line in told.items() if " 200 " in line}
    check(
        "what the policy allows passes: the same address, at the port that rempart.yaml names",
        passed == wanted,
        f"{permitted}: {', '.join(f'{name}: {line}' for name, line in sorted(told.items()))}",
    )


# --- TLS --------------------------------------------------------------------------------------------------------------


def make_pair(folder: Path, *names: str, until: datetime | None = None, password: bytes = b"") -> CertificatePair:
    """Create a self-signed certificate for names and addresses, and its key."""
    until = until or datetime.now(UTC) + timedelta(days=1)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    plain = [name for name in names if not name[0].isdigit()]
    addresses = [ipaddress.ip_address(name) for name in names if name[0].isdigit()]
    alternatives = x509.SubjectAlternativeName([*map(x509.DNSName, plain), *map(x509.IPAddress, addresses)])
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(until - timedelta(days=9))
        .not_valid_after(until)
        .add_extension(alternatives, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    shut = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    made = CertificatePair(folder / f"{names[0]}.crt", folder / f"{names[0]}.key")
    made.certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    made.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, shut))
    return made


def look_at_pages(pages: dict[str, tuple[int, str]], authority: Path, check: Check) -> None:
    """Request each page (port and path) by TLS, by an outdated TLS, and without TLS."""
    for name, (port, path) in pages.items():
        found = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=30, context=ssl.create_default_context(cafile=authority)
        )
        found.request("GET", path)
        answer = found.getresponse()
        version, strict = found.sock.version(), answer.getheader("Strict-Transport-Security", "")
        found.close()
        old, plain = _handshake_of_2006(port), _without(port, path)
        check(
            f"{name} by TLS alone, with the certificate that init was given",
            answer.status < 400 and version in ("TLSv1.2", "TLSv1.3") and "max-age=" in strict and old and plain,
            f"{answer.status} by {version}, HSTS {strict}; TLS 1.1 and http refused: {old}, {plain}",
        )


def _handshake_of_2006(port: int) -> bool:
    """Return whether the server itself refuses TLS 1.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    try:
        connection.connect()
    except ssl.SSLError as refusal:
        return "ALERT_PROTOCOL_VERSION" in str(refusal.reason)
    finally:
        connection.close()
    return False


def _without(port: int, path: str) -> bool:
    """Return whether a request without TLS gets no answer, or an error."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status >= 400
    except (http.client.HTTPException, OSError):
        return True
    finally:
        connection.close()
