"""Spark as an engine: how a session is opened, how DuckDB's SQL is written for it, and the contract of its jobs."""
