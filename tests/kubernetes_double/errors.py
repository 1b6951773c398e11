"""Refusals of the API server, each with the Status body that a real one sends."""

from __future__ import annotations

from typing import Any

from .kinds import Kind, Obj

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Refusal(Exception):
    """An answer that is not a success."""

    def __init__(self, code: int, message: str, reason: str | None = None, details: Obj | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason or REASONS.get(code, "Unknown")
        self.details = details or {}

    def status(self) -> Obj:
        """The body of the answer."""
        body: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        body |= {"message": self.message, "reason": self.reason}
        if self.details:
            body["details"] = self.details
        return body | {"code": self.code}


def _details(kind: Kind, name: str) -> Obj:
    details = {"name": name} if name else {}
    return details | ({"group": kind.group} if kind.group else {}) | {"kind": kind.plural}


def not_found(kind: Kind, name: str) -> Refusal:
    """404 for an object that is not there."""
    return Refusal(404, f'{kind.resource} "{name}" not found', details=_details(kind, name))


def already_exists(kind: Kind, name: str, *, ending: bool) -> Refusal:
    """409 for a create of a name that is taken; `ending`: by an object that is being deleted."""
    message = f'{"object is being deleted: " if ending else ""}{kind.resource} "{name}" already exists'
    return Refusal(409, message, "AlreadyExists", _details(kind, name))


def conflict(kind: Kind, name: str, why: str) -> Refusal:
    """409 for a write against another version."""
    message = f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}'
    return Refusal(409, message, details=_details(kind, name))


def forbidden(kind: Kind, name: str, why: str) -> Refusal:
    """403 of authorization or admission."""
    subject = f'{kind.resource} "{name}"' if name else kind.resource
    return Refusal(403, f"{subject} is forbidden: {why}", details=_details(kind, name))


def invalid(kind: Kind, name: str, causes: list[tuple[str, str]]) -> Refusal:
    """422 with its causes, pairs of a field and what is wrong with it."""
    texts = [f"{field}: {message}" for field, message in causes]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details = _details(kind, name) | {
        "kind": kind.kind,
        "causes": [
            {
                "reason": "FieldValueRequired" if message.startswith("Required") else "FieldValueInvalid",
                "message": message,
                "field": field,
            }
            for field, message in causes
        ],
    }
    qualified = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    return Refusal(422, f'{qualified} "{name}" is invalid: {text}', details=details)
