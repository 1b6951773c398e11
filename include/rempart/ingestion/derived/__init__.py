"""Derived data: a SQL file over snapshots of other pipelines, bound before any run and executed in DuckDB.

Its rows become deliveries of the derived pipeline, so from there on all is one path. See docs/adr/0096.
"""
