"""Spark jobs in pods of a pool: the pods of driver and executors, and what a session in a driver's pod is told."""
