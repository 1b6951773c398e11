"""Certificates of the sites of a stack in containers, for tests of the files that containers get."""

from __future__ import annotations

from datetime import UTC, datetime

from rempart.deployment.setup import paths, site_certificates


def certificates(stack: paths.Stack) -> dict[str, dict[str, str]]:
    """New ones for every site, by file name."""
    return {site: site_certificates.make(site, datetime.now(UTC)).files() for site in stack.embedded_sites}
