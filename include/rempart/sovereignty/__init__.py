"""Sovereignty: who runs a place, under whose law, and what the owner of the platform allows there."""
