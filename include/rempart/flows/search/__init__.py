"""Search for a trainer's parameters: trials as jobs, the choice of the best one, and the evidence of a search."""
