"""A snapshot becomes a champion: features, training, jobs in pods, the gate, promotion."""
