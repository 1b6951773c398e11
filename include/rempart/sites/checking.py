"""Check a site's answers: the listed object, the range, the recorded bytes. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

from rempart.errors import IntegrityError, SiteUnavailable
from rempart.sites.answers import etag, fact
from rempart.sites.digests import error_code
from rempart.sites.port import Checks, ObjectInfo

_OPERATOR = "Nothing was stored. Run again. If it fails again, ask the site's operator."


def checks_of(answer: Mapping[str, Any], first: Mapping[str, Any] | None) -> Checks:
    """Return the checksums in an answer to HEAD; `first`: the answer to HEAD of the first part, for several parts.

    Raises NotUnderstood.
    """
    checksum = str(answer.get("ChecksumSHA256") or "")
    whole = "-" not in checksum and answer.get("ChecksumType") != "COMPOSITE"
    encryption = str(answer.get("ServerSideEncryption") or "")
    several = first is not None and int(first.get("PartsCount") or 0) > 1
    return Checks(
        fact(answer, "ContentLength"),
        etag(answer),
        _hex(checksum) if checksum and whole else "",
        "" if whole else checksum,
        int(first["ContentLength"]) if first is not None and several else 0,
        encrypted=encryption not in ("", "AES256") or "SSECustomerAlgorithm" in answer,
    )


def _hex(checksum: str) -> str:
    try:
        return base64.b64decode(checksum, validate=True).hex()
    except (binascii.Error, ValueError):
        return ""


def check_listed(where: str, listed: ObjectInfo, info: ObjectInfo) -> None:
    """Check that an answer describes the listed object. Raises IntegrityError."""
    if (info.size, info.etag) == (listed.size, listed.etag or info.etag):
        return
    raise IntegrityError(
        f"{where}: the answer has {info.size} bytes and ETag {info.etag[:40]}, the listing had {listed.size} "
        f"bytes and ETag {listed.etag[:40]}",
        _OPERATOR,
    )


def check_range(where: str, start: int, length: int, content_range: str | None, size: int) -> None:
    """Check that a body of `size` bytes is the requested range, given the header `content_range`.

    Raises SiteUnavailable.
    """
    wanted = f"bytes {start}-{start + length - 1}/"
    if (
        size != length
        or (content_range is None and start)
        or (content_range is not None and not content_range.startswith(wanted))
    ):
        raise SiteUnavailable(
            f"{where}: received {size} of {length} bytes, starting at byte {start}"
            + (f" ({content_range})" if content_range else ""),
            "Retry. If it fails again, ask the site's operator.",
        )


def check_sha256(where: str, body: bytes, recorded: str, whose: str) -> None:
    """Check a body against the SHA-256 on record. Raises IntegrityError."""
    if (digest := hashlib.sha256(body).hexdigest()) != recorded:
        raise IntegrityError(
            f"{where}: the SHA-256 is {digest[:12]}…, {whose} {recorded[:12]}…",
            "Restore the object from its replica or from a restore point.",
        )


def is_error(body: bytes, known: Mapping[str, Any] | None) -> str | None:
    """Return the code of an S3 error sent as a body with status 200; None for the object's own bytes.

    `known`: the facts by HEAD; an object may contain such a document, and then they agree with the body.
    """
    code = error_code(body)
    if code is None or known is None:
        return code
    sha256 = known.get("Metadata", {}).get("sha256")
    if sha256:
        return None if hashlib.sha256(body).hexdigest() == sha256 else code
    md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
    same = known.get("ContentLength") == len(body) and str(known.get("ETag", "")).strip('"') == md5
    return None if same else code
