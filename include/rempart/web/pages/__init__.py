"""Describe the pages of the navigation: one module per page, with its entry `PAGE`. Nothing else lists the pages."""

from __future__ import annotations

import importlib
import pkgutil

from rempart.web.page import Page


def collect() -> tuple[Page, ...]:
    """Return the entry `PAGE` of each module of this package, in the order of the navigation."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    pages: list[Page] = [importlib.import_module(f"{__name__}.{name}").PAGE for name in names]
    return tuple(sorted(pages, key=lambda page: page.position))
