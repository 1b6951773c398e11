"""Commands and lines of predictions: of rows in a file, and of one that was logged."""
