"""Erases rows of a dataset for good, at every site."""
