"""Which row stands for a key that comes more than once: by `on_conflict` of the pipeline file."""
