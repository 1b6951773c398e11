"""The panels of `rempart --help`, in the order in which it shows them; a group names its own."""

from __future__ import annotations

START = "Start here"
DATA = "Data and models"
PROTECT = "Protect"
GOVERN = "Govern"
OPERATE = "Operate"
ORDER = (START, DATA, PROTECT, GOVERN, OPERATE)
