"""What a snapshot holds: the types of its rows, and the parts that it gains and keeps as rows join."""
