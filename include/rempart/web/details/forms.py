"""Check that a POST comes from one of our forms, sent by the user for whom the form was made (CSRF).

The token is a keyed hash of user, action and time, so nothing is stored, and one user's token is useless in another's
browser. Other sites' forms send Airflow's cookie only in browsers without SameSite. The browser's statement about the
request's origin is checked too.
"""

from __future__ import annotations

import hashlib
import hmac
import time

LIFETIME = 3600


def token(key: str, user: str, action: str, now: float | None = None) -> str:
    """Return a token for one action (its path) of one user. It is valid for an hour."""
    at = int(time.time() if now is None else now)
    return f"{at}.{_mac(key, user, action, at)}"


def is_ours(key: str, user: str, action: str, given: str, now: float | None = None) -> bool:
    """Return whether a token was made here, for this user and action, within the hour."""
    moment, _, mac = given.partition(".")
    if not moment.isascii() or not moment.isdigit() or len(moment) > 12:
        return False
    age = (time.time() if now is None else now) - int(moment)
    return -60 <= age <= LIFETIME and hmac.compare_digest(mac.encode(), _mac(key, user, action, int(moment)).encode())


def from_elsewhere(fetch_site: str | None) -> bool:
    """Return whether the browser says (Sec-Fetch-Site) that another site made the request."""
    return fetch_site not in (None, "same-origin", "none")


def _mac(key: str, user: str, action: str, at: int) -> str:
    derived = hashlib.sha256(f"rempart form {key}".encode()).digest()
    return hmac.new(derived, f"{at}\n{user}\n{action}".encode(), hashlib.sha256).hexdigest()
