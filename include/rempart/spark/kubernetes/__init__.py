"""Spark jobs in pods of a pool: what the pods are, where they may be, which attempt is next, and a driver's session."""
