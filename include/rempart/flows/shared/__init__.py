"""Shared parts of the flows: the platform, pairs of sites, keys, the register of erasures."""
