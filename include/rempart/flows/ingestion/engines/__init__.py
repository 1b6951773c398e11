"""Engines that take new deliveries in: DuckDB on this machine, or Spark on several executors."""
