"""Restores a point in place or beside the platform, and proves what it restored."""
