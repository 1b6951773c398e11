"""Define how often replicas are read back. A DAG file imports this module, so it imports nothing else."""

from datetime import timedelta

READ_BACK_WITHIN = timedelta(hours=24)
"""A replica that was only accepted is read back within this time."""
READ_BACK_EVERY = READ_BACK_WITHIN / 2
"""Time between two runs: a replica that arrives right after a run is read by the next, with time to spare."""
