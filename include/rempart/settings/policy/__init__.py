"""Settings of the policy: places, what it allows at them, and the origins from which data may be read."""
