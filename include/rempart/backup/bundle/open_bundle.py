"""Fetch a bundle to a bare machine and install it: `python3 open_bundle.py --help`. Standard library only.

This file stands alone: at the site as `bundle/open_bundle.py`, best also stored with the escrowed keys. It trusts only
the signature of the ledger's public key. Exit code 0: everything is in place; 1: the last line gives the reason.
Without an endpoint the bundle is already in the folder, where it was carried: then nothing is fetched.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

FOLDER, FILES = "bundle/", "bundle/files/"
SPKI = bytes.fromhex("302a300506032b6570032100")  # what precedes an Ed25519 key of 32 bytes in DER (RFC 8410)
MOST_INDEXES = 100_000
INDEX = re.compile(r"bundle/\d{8}T\d{6}Z-[0-9a-f]{12}\.json")
_SIGNED = re.compile(r'\{"bundle":(\{.*\}),"sig":"([A-Za-z0-9+/]{85}[AQgw]==)"\}\n?')
_NAME = re.compile(r"(?:(?:wheels|sbom)/)?[A-Za-z0-9_][A-Za-z0-9_.+!-]*")
IMAGES, LOADER = "images.tar.gz", "include/rempart/deployment/compose/load_images.py"
TRIES, CHUNK = 4, 1 << 20
Open = Callable[[str], AbstractContextManager[BinaryIO]]
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int, int, int]


logger = logging.getLogger(__name__)


class MessageFormatter(logging.Formatter):
    """Formats a log record as its message alone. A warning is marked."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{'warning: ' if record.levelno >= logging.WARNING else ''}{record.getMessage()}"


class BundleRefused(Exception):
    """Raised when a bundle or file is missing or must not be used."""


# --- Ed25519, verification alone, as RFC 8032 has it ------------------------------------------------------------------


def _add(point: Point, other: Point) -> Point:
    a = (point[1] - point[0]) * (other[1] - other[0]) % P
    b = (point[1] + point[0]) * (other[1] + other[0]) % P
    c, d = 2 * point[3] * other[3] * D % P, 2 * point[2] * other[2] % P
    return ((b - a) * (d - c) % P, (d + c) * (b + a) % P, (d - c) * (d + c) % P, (b - a) * (b + a) % P)


def _times(number: int, point: Point) -> Point:
    product: Point = (0, 1, 1, 0)
    while number:
        if number & 1:
            product = _add(product, point)
        point, number = _add(point, point), number >> 1
    return product


def _decoded(text: bytes) -> Point:
    """Return a point from its 32 bytes. Raises ValueError for invalid bytes."""
    number = int.from_bytes(text, "little")
    y, sign = number & ((1 << 255) - 1), number >> 255
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if y >= P or x * x % P != square or (x == 0 and sign):
        raise ValueError("it is not a point of the curve")
    return (x if x & 1 == sign else P - x, y, 1, (x if x & 1 == sign else P - x) * y % P)


_BASE = _decoded(bytes.fromhex("58" + "66" * 31))


def verifies(public: bytes, signature: bytes, text: bytes) -> bool:
    """Return whether a 64-byte Ed25519 signature of a text belongs to this 32-byte key."""
    try:
        key, nonce = _decoded(public), _decoded(signature[:32])
    except ValueError:
        return False
    scalar = int.from_bytes(signature[32:], "little")
    challenge = int.from_bytes(hashlib.sha512(signature[:32] + public + text).digest(), "little") % L
    left, other = _times(scalar, _BASE), _add(nonce, _times(challenge, key))
    same = (left[0] * other[2] - other[0] * left[2]) % P == 0 == (left[1] * other[2] - other[1] * left[2]) % P
    return len(public) == 32 and len(signature) == 64 and scalar < L and same


def public_keys(texts: Iterable[str]) -> dict[str, bytes]:
    """Read Ed25519 public keys from PEM files, by the ledger's id."""
    pattern = r"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----"
    candidates = [base64.b64decode(encoded) for text in texts for encoded in re.findall(pattern, text)]
    return {
        hashlib.sha256(public).hexdigest()[:16]: public[len(SPKI) :] for public in candidates if public.startswith(SPKI)
    }


# --- the bundle -------------------------------------------------------------------------------------------------------


def read_index(body: bytes, keys: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the index of a bundle. Raises BundleRefused unless one of the keys signed it."""
    matched = _SIGNED.fullmatch(body.decode("utf-8", errors="replace"))
    if not matched:
        raise BundleRefused("it is not an index of a bundle")
    if not any(verifies(key, base64.b64decode(matched[2]), matched[1].encode()) for key in keys.values()):
        raise BundleRefused("none of the given public keys signed it")
    plain: dict[str, Any] = json.loads(matched[1])
    if plain["v"] != 1 or not all(_NAME.fullmatch(name) for name in plain["files"]):
        raise BundleRefused("its format is unknown to this program")
    return plain


def this_machine() -> tuple[str, str]:
    """Return Python version and platform as an index names them: wheels depend on both."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}", sysconfig.get_platform()


def choose(
    names: Iterable[str],
    opener: Open,
    keys: Mapping[str, bytes],
    machine: tuple[str, str] | None = None,
    *,
    images: bool = False,
) -> dict[str, Any]:
    """Return the newest valid index for this machine. An invalid index is logged and skipped. Raises BundleRefused.

    If `images` are required, the index must have some; any Python will do then, because images contain their own.
    """
    wanted, others = machine or this_machine(), set()
    for name in sorted(filter(INDEX.fullmatch, names), reverse=True):
        try:
            with opener(name) as stream:
                index = read_index(stream.read(), keys)
        except BundleRefused as error:
            logger.warning("skipped %s: %s. Find out who wrote this index", name, error)
            continue
        fits = (index["python"], index["platform"]) == wanted
        if (index["platform"] == wanted[1] and index.get("images")) if images else fits:
            logger.info("%s: signed, made on %s, %d files", name, index["at"], len(index["files"]))
            return index
        others.add(f"Python {index['python']} on {index['platform']}")
    hint = f"; there is a bundle for {', '.join(sorted(others))}" if others else ""
    what = f"with images on {wanted[1]}" if images else f"for Python {wanted[0]} on {wanted[1]}"
    raise BundleRefused(f"no signed bundle {what} was found{hint}")


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def bring(index: Mapping[str, Any], opener: Open, folder: Path) -> int:
    """Fetch each missing file and check it against the index. Return the number of bytes. Raises BundleRefused."""
    came, logged_at, total = 0, time.monotonic(), sum(file["size"] for file in index["files"].values())
    done = 0
    for name, held in sorted(index["files"].items()):
        target, done = folder / name, done + held["size"]
        if _is(target, held):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        with opener(FILES + held["sha256"]) as source, partial.open("wb") as sink:
            shutil.copyfileobj(source, sink, CHUNK)
        if sha256_of(partial) != held["sha256"]:
            partial.unlink()
            raise BundleRefused(
                f"{name} differs from the signed file ({FILES}{held['sha256']}): an earlier version may be right"
            )
        partial.replace(target)
        came += held["size"]
        if time.monotonic() - logged_at >= 5:
            logged_at = time.monotonic()
            logger.info("fetched %.0f %% of %.0f MB", 100 * done / max(total, 1), total / 1e6)
    return came


def check(index: Mapping[str, Any], folder: Path) -> None:
    """Check a carried bundle against its index: every file is as signed, and no other file exists.

    Raises BundleRefused with the difference.
    """
    real, names = folder.resolve(), set(index["files"])
    wrong = [
        name
        for name, listed in sorted(index["files"].items())
        if (real / name).resolve() != real / name or not _is(real / name, listed)
    ]
    if wrong:
        raise BundleRefused(
            f"files that differ from the signed ones, or are missing: {', '.join(wrong)}. No file "
            "of the bundle was used"
        )
    places = {real, *((real / name).parent for name in names)}
    there = {path.relative_to(real).as_posix() for place in places for path in place.iterdir()}
    known = names | {place.relative_to(real).as_posix() for place in places} | {FOLDER.rstrip("/")}
    if strange := sorted(there - known):
        raise BundleRefused(
            f"files without a signature in the folder: {', '.join(strange)}. No file of the bundle was used. If "
            "an earlier run of this program wrote them, continue in that run's folder; otherwise remove them"
        )


def _is(file: Path, held: Mapping[str, Any]) -> bool:
    return file.is_file() and file.stat().st_size == held["size"] and sha256_of(file) == held["sha256"]


class Bucket:
    """A bucket of an S3 site, read with signed requests (AWS Signature Version 4)."""

    def __init__(self, endpoint: str, region: str, name: str, access: str, secret: str, *, virtual: bool) -> None:
        place = urlsplit(endpoint)
        self.host = f"{name}.{place.netloc}" if virtual else place.netloc
        self.root, self.path = f"{place.scheme}://{self.host}", "" if virtual else f"/{name}"
        self.region, self.access, self.secret = region, access, secret

    def request(self, path: str, query: str, now: datetime) -> urllib.request.Request:
        empty, stamp = hashlib.sha256(b"").hexdigest(), f"{now:%Y%m%dT%H%M%SZ}"
        headers = {"host": self.host, "x-amz-content-sha256": empty, "x-amz-date": stamp}
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        signed, scope = ";".join(headers), f"{stamp[:8]}/{self.region}/s3/aws4_request"
        canonical = "\n".join(("GET", path, query, lines, signed, empty))
        text = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
        key = f"AWS4{self.secret}".encode()
        for part in (*scope.split("/"), text):
            key = hmac.digest(key, part.encode(), "sha256")
        proof = f"AWS4-HMAC-SHA256 Credential={self.access}/{scope}, SignedHeaders={signed}, Signature={key.hex()}"
        url = f"{self.root}{path}" + (f"?{query}" if query else "")
        return urllib.request.Request(url, headers=headers | {"Authorization": proof})  # noqa: S310 # as it was named

    def _get(self, path: str, query: str = "") -> BinaryIO:
        for left in reversed(range(TRIES)):
            try:
                answer: BinaryIO = urllib.request.urlopen(self.request(path, query, datetime.now(UTC)), timeout=60)  # noqa: S310
                return answer
            except urllib.error.HTTPError as error:
                if error.code < 500 or not left:
                    hint = "; check key, region and this machine's clock" if error.code == 403 else ""
                    raise BundleRefused(f"{self.root}{path} answered {error.code} {error.reason}{hint}") from error
            except OSError as error:
                if not left:
                    raise BundleRefused(f"{self.root} does not answer: {error}") from error
            time.sleep(TRIES - left)
        raise AssertionError("the last try returns or raises")

    def open(self, key: str) -> BinaryIO:
        return self._get(f"{self.path}/{quote(key, safe='/-_.~')}")

    def names(self) -> list[str]:
        """Return the keys of the indexes."""
        keys, after = list[str](), ""
        while True:
            query = "list-type=2&prefix=bundle%2F2" + (f"&start-after={quote(after, safe='')}" if after else "")
            with self._get(self.path or "/", query) as answer:
                tree = ElementTree.fromstring(answer.read())  # noqa: S314 # of the site that holds the backups
            page = [element.text or "" for element in tree.iterfind("{*}Contents/{*}Key")]
            keys += page
            if not page or tree.findtext("{*}IsTruncated") != "true":
                return keys
            if page[0] <= after or page != sorted(set(page)):
                raise BundleRefused(f"the listing of {self.root}{self.path} is repeated or out of order")
            if len(keys) > MOST_INDEXES:
                raise BundleRefused(
                    f"{self.root}{self.path} lists more than {MOST_INDEXES} bundles, or its listing never ends"
                )
            after = page[-1]


def install(index: Mapping[str, Any], folder: Path) -> Path:
    """Unpack the code and make its environment offline from the wheels. Return its folder. Raises BundleRefused."""
    home, tools = folder / "rempart", folder / "tools"
    if (home / ".venv" / "rempart-installed").is_file():
        return home  # by an earlier run: what somebody changed there since stays
    _unpack(folder, home)
    tools.mkdir(exist_ok=True)
    restic = shutil.copy(folder / "restic", tools / "restic")
    Path(restic).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "VIRTUAL_ENV"))}
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder / "wheels"), "PIP_CONFIG_FILE": os.devnull}
    offline |= {"PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    logger.info("installing into %s", home)
    if subprocess.run([sys.executable, home / index["entry"]], env=kept | offline, check=False).returncode:
        raise BundleRefused("the installation failed: see the lines above")
    target = home / ".venv" / "tools" / "bin" / "restic"
    shutil.copy(restic, target)
    return home


def _unpack(folder: Path, home: Path) -> None:
    with tarfile.open(folder / "code.tar.gz") as archive:
        if hasattr(tarfile, "data_filter"):  # of Python 3.11.4; what was signed needs none
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(home)  # noqa: S202 # signed


def load(index: Mapping[str, Any], folder: Path) -> Path:
    """Unpack the code and let its program load the images into this machine's Engine. Return the code's folder.

    Installs nothing on the machine. Raises BundleRefused.
    """
    home = folder / "rempart"
    if not (home / "rempart.yaml").is_file():  # of an earlier run: what somebody changed there since stays
        _unpack(folder, home)
    command = [sys.executable, home / LOADER, folder / IMAGES, *index["images"]]
    if subprocess.run(command, check=False).returncode:
        raise BundleRefused("the images were not loaded: see the lines above")
    return home


def brought(options: argparse.Namespace, keys: Mapping[str, bytes], folder: Path) -> dict[str, Any]:
    """Return the index of a fetched or portable bundle, after a check of every file. Raises BundleRefused."""
    if not options.endpoint:
        names = [f"{FOLDER}{file.name}" for file in (folder / FOLDER).glob("*.json")]
        index = choose(names, lambda name: (folder / name).open("rb"), keys, images=options.containers)
        check(index, folder)
        size = sum(file["size"] for file in index["files"].values())
        logger.info("checked %.0f MB: every file matches its signature", size / 1e6)
        return index
    needed = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    if lacking := [name for name in needed if not os.environ.get(name)]:
        raise BundleRefused(f"{' and '.join(lacking)} must be set")
    access, secret = (os.environ[name] for name in needed)
    site = Bucket(options.endpoint, options.region, options.bucket, access, secret, virtual=options.virtual)
    index = choose(site.names(), site.open, keys, images=options.containers)
    logger.info("fetched %.0f MB: every file matches its signature", bring(index, site.open, folder) / 1e6)
    return index


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Fetch a bundle, check it, install it. Credentials: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY."
    )
    parser.add_argument(
        "folder", type=Path, help=("folder to install into, or folder of the bundle; run again to continue")
    )
    parser.add_argument("--endpoint", help="URL of the backup site; without it the folder contains the bundle")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--bucket", default="backups")
    parser.add_argument(
        "--virtual", action="store_true", help=("address buckets as https://BUCKET.HOST/, which some operators require")
    )
    parser.add_argument("--containers", action="store_true", help=("load the bundle's images into the Docker Engine"))
    parser.add_argument("--trust", required=True, action="append", type=Path, help=("file public.pem; may be repeated"))
    options = parser.parse_args(arguments)
    folder = options.folder.absolute()
    try:
        index = brought(options, public_keys(file.read_text(encoding="ascii") for file in options.trust), folder)
        home = (load if options.containers else install)(index, folder)
    except (BundleRefused, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    after = (
        "docs/how-to/offline.md" if options.containers or not options.endpoint else "docs/runbooks/operator-is-gone.md"
    )
    sys.stdout.write(f"Ready: cd {home}, then follow {after}\n")
    return 0


if __name__ == "__main__":
    terminal = logging.StreamHandler(sys.stdout)
    terminal.setFormatter(MessageFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[terminal])
    sys.exit(main())
