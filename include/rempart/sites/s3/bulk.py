"""Transfer bodies in memory fast: GET, HEAD and PUT by obstore (Rust), for a tenth of boto3's processor time.

It returns None for everything that it does differently from boto3, and for every error. boto3 then repeats the request
and reports the error. So one module alone translates errors and repeats requests. After a request without an answer,
boto3 takes all of them for a while, so that a silent site costs this module's limit once.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

from rempart.settings.config import Connection
from rempart.sites.port import ObjectInfo

SILENT_SECONDS = 20.0
"""Seconds without a byte of the answer after which a request is left to boto3."""
SENDING = 2
"""How many times as long a body may take, which is sent before the answer begins: a slow line is no silent site."""
REST_SECONDS = 600.0
"""Seconds for which boto3 takes all requests after that."""
_HOME: list[int] = []
"""The process in which obstore was first used."""


_BULKS: weakref.WeakSet[Bulk] = weakref.WeakSet()
_KEPT: list[list[Any]] = []
"""Stores that a fork inherited. It must not drop them: obstore would wait for threads that the fork lacks."""


def _keep() -> None:
    _KEPT.append([store for bulk in list(_BULKS) for store in list(bulk.stores.values())])


def _release() -> None:
    if _KEPT:  # not if this module was imported by another hook of this fork
        _KEPT.pop()


os.register_at_fork(before=_keep, after_in_parent=_release)


def at_home() -> bool:
    """Return whether obstore may be used in this process.

    obstore's threads are missing in a fork of the process that used it first, and both processes share its sockets: a
    call in the fork never returns, and the next call in the parent does not return either.
    """
    if not _HOME:
        _HOME.append(os.getpid())
    return _HOME[0] == os.getpid()


def plain(key: str) -> bool:
    """Return whether obstore takes a key unchanged: it refuses some, or stores them under another name (`trail/` as
    `trail`).
    """
    return all(step not in ("", ".", "..") for step in key.split("/")) and key.isprintable()


class Bulk:
    """One site's fast path; its stores are made when they are first used, and shared by all threads."""

    def __init__(self, connection: Connection, region: str) -> None:
        endpoint = str(connection.extra["endpoint_url"])
        key = {
            "access_key_id": connection.login,
            "secret_access_key": connection.password,
            "token": connection.extra.get("aws_session_token"),
            "expires_at": None,
        }
        # all of it is said here: what is not, obstore would take from AWS_* in the environment
        self._settings: dict[str, Any] = {
            "endpoint": endpoint,
            "region": connection.extra.get("region_name", region),
            "credential_provider": lambda: key,
            "skip_signature": False,
            "virtual_hosted_style_request": False,
            "unsigned_payload": True,  # the checksum is signed, and is of the body
            "client_options": {
                "allow_http": endpoint.startswith("http:"),
                "timeout": "1h",  # a long body is not cut; the default is 30 s for all of it
                "connect_timeout": "5s",
            },
            "retry_config": {"max_retries": 0},
        }
        # what it cannot be told: a certificate authority of one's own, and the host style, which boto3 finds out;
        # and in the environment of jobs it is not installed
        special = connection.extra.get("ca_bundle") or connection.extra.get("addressing_style", "path") != "path"
        self._off = bool(special) or find_spec("obstore") is None
        self._rests_until = 0.0
        self.stores: dict[tuple[str, bool], Any] = {}
        _BULKS.add(self)

    def _takes(self, key: str) -> bool:
        return not self._off and time.monotonic() >= self._rests_until and plain(key) and at_home()

    @contextmanager
    def _patience(self, seconds: float) -> Iterator[None]:
        """Leave the site's requests to boto3 for `REST_SECONDS` if this one failed after so many seconds."""
        began = time.monotonic()
        try:
            yield
        except BaseException:
            if (now := time.monotonic()) - began >= seconds:
                self._rests_until = now + REST_SECONDS
            raise

    def takes(self, key: str, metadata: Mapping[str, str]) -> bool:
        """Return whether a body with this key and metadata is sent with obstore."""
        return self._takes(key) and all(f"{name}{value}".isascii() for name, value in metadata.items())

    def _store(self, bucket: str, *, checked: bool = False) -> Any:
        if (bucket, checked) not in self.stores:
            from obstore.store import S3Store

            settings = dict(self._settings) | ({"checksum_algorithm": "sha256"} if checked else {})
            limit = SILENT_SECONDS * (SENDING if checked else 1)
            settings["client_options"] = settings["client_options"] | {"read_timeout": f"{round(limit * 1000)}ms"}
            self.stores[bucket, checked] = S3Store(bucket, **settings)
        return self.stores[bucket, checked]

    def get(self, bucket: str, key: str, version_id: str | None) -> tuple[ObjectInfo, bytes] | None:
        """Return facts and body, or None: use boto3."""
        return self._ask(bucket, key, {"version": version_id} if version_id else {})

    def head(self, bucket: str, key: str, version_id: str | None) -> ObjectInfo | None:
        """Return facts without the body, or None: use boto3."""
        found = self._ask(bucket, key, {"head": True} | ({"version": version_id} if version_id else {}))
        return found[0] if found else None

    def _ask(self, bucket: str, key: str, options: Any) -> tuple[ObjectInfo, bytes] | None:
        if not self._takes(key):
            return None
        import obstore
        from obstore.exceptions import BaseError

        try:
            with self._patience(SILENT_SECONDS):
                answer = obstore.get(self._store(bucket), key, options=options)
                body = b"" if options.get("head") else answer.bytes().to_bytes()
        except (BaseError, OSError, ValueError):
            return None
        attributes, meta = dict(answer.attributes), answer.meta
        kind = str(attributes.pop("Content-Type", ""))
        whole = bool(options.get("head")) or len(body) == meta["size"]
        if not (meta["e_tag"] and whole) or any(name[:1].isupper() for name in attributes):
            return None  # Cache-Control and others are no metadata of ours
        version = meta["version"]
        info = ObjectInfo(
            key,
            meta["size"],
            meta["last_modified"],
            None if version == "null" else version,
            str(meta["e_tag"] or "").strip('"'),
            {str(name): str(value) for name, value in attributes.items()},
            kind,
        )
        return info, body

    def put(
        self,
        bucket: str,
        key: str,
        body: bytes,
        metadata: Mapping[str, str],
        content_type: str,
        *,
        new: bool = False,
    ) -> ObjectInfo | None:
        """Store a body with its SHA-256, which the site checks; with `new` only if the key has no object.

        None: it is not known to be stored, ask boto3.
        """
        if not self.takes(key, metadata):
            return None
        import obstore
        from obstore.exceptions import BaseError

        attributes: Any = {**metadata, "Content-Type": content_type}
        try:
            with self._patience(SILENT_SECONDS * SENDING):
                made = obstore.put(
                    self._store(bucket, checked=True),
                    key,
                    body,
                    attributes=attributes,
                    use_multipart=False,
                    mode="create" if new else "overwrite",
                )
        except (BaseError, OSError, ValueError):
            return None
        if not (etag := str(made["e_tag"] or "").strip('"')):
            return None
        return ObjectInfo(key, len(body), datetime.now(UTC), made["version"], etag, dict(metadata), content_type)
