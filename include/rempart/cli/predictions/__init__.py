"""Command and lines of a prediction of rows in a file."""
