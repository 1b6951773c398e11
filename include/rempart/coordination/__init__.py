"""Manage leases, the active site, and the continuity database."""
