"""Predict rows with the champion of a pipeline: from the columns of the source to named outputs."""
