"""Writes and fetches the bootstrap bundle."""
