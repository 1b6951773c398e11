"""Commands of the group `pipeline` that change a pipeline as a whole, or start its runs by events and periods."""
