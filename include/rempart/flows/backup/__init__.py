"""Writes, locks, keeps and prunes restore points."""
