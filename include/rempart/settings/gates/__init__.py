"""What a candidate must show: metrics by name, the rules of the gate, and faults of a pipeline file in them."""
