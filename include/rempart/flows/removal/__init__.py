"""Reset a pipeline, or remove it: what is deleted, put back and kept, and its execution."""
