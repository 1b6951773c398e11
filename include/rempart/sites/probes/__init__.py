"""Probes: each tries one capability of a live site, in a bucket of the doctor's own. `run` tries all of them."""
