"""Erase rows of a data set for good, at every site."""
