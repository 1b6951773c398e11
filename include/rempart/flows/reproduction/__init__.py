"""Train a recorded version once more, and compare: whether its evidence tells the truth."""
