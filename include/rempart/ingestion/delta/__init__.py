"""The Delta log of a pipeline's snapshots: other tools read the newest snapshot as a Delta Lake table.

The log is derived from manifests and holds file names, sizes and counts of rows, no value of the data. See
docs/adr/0095.
"""
