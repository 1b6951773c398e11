"""What the gate asked of a version, rule by rule."""
