"""Commands of the group `pipeline` that show or change a pipeline as a whole, or start its runs by periods."""
