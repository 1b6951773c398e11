"""Replaces the release that runs by this one, and back."""
