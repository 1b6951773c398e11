"""The regular run of the prediction log: ship it, then delete what is old."""

from __future__ import annotations

import logging
from pathlib import Path

from rempart.errors import RempartError
from rempart.flows.prediction_log.retention import expire_all
from rempart.flows.prediction_log.shipment import ship_all
from rempart.flows.shared.platform import Platform

logger = logging.getLogger(__name__)


def run(platform: Platform, folder: Path) -> dict[str, int]:
    """Ship the log in a folder, and delete old entries. Return how many entries and files that were.

    Old entries go even if a shipment fails. Raises ServingError.
    """
    failed: RempartError | None = None
    shipped, expired = 0, 0
    try:
        for shipment in ship_all(platform, folder):
            if shipment.segments:
                logger.info("%s", shipment.line())
            shipped += shipment.entries
    except RempartError as error:
        failed = error
    for expiry in expire_all(platform):
        logger.info("%s", expiry.line())
        expired += expiry.files
    if failed:
        raise failed
    return {"entries": shipped, "expired_files": expired}
