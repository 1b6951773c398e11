"""Probe sites, databases and pools, and report or record the findings."""
