"""Searches for parameters: trials, the best value so far, and the values of each parameter."""
