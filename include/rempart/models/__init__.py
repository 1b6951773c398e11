"""Models: what one is (features, encoding, format), the gate, the registry, and the only way to load one."""
