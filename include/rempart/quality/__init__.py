"""Quality: the pipeline's Great Expectations, applied to each row by itself."""
