"""The module's docstring draws the same tree of errors as the classes form."""

from __future__ import annotations

import re

from rempart import errors
from rempart.errors import RempartError


def drawn() -> dict[str, tuple[str, bool]]:
    """Each class of the drawing: its base, and whether the drawing says that it is transient."""
    found, above = {}, ["RempartError"]
    for depth, name, told in re.findall(r"^((?:│   |    )*)[├└]── (\w+) +(.*)$", str(errors.__doc__), re.M):
        del above[len(depth) // 4 + 1 :]
        found[name] = (above[-1], told.startswith("transient: "))
        above.append(name)
    return found


def test_the_drawing_shows_each_class_its_base_and_whether_a_retry_can_help() -> None:
    classes = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, RempartError) and kind is not RempartError
    }
    assert drawn() == {name: (kind.__base__.__name__, kind.transient) for name, kind in classes.items()}
    assert sorted(errors.__all__) == sorted([*classes, "RempartError"])
