"""Copies objects from site to site, compares them, and repairs them."""
