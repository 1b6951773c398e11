"""Searches for a trainer's parameters: the frozen training set, the trials, the choice and its evidence."""
