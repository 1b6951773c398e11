"""Restore a restore point in place or side by side with the platform, and verify the result."""
