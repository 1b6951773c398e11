"""Probe single capabilities of a live site, in the doctor's own bucket. `run` probes all of them."""
