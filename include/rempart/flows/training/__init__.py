"""Turn a snapshot into a champion: features, training, jobs in pods, gate, promotion."""
