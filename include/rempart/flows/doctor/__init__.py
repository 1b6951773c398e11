"""Tries what sites, databases and pools can do, and tells or records it."""
