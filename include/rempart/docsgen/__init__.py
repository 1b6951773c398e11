"""What writes docs/reference."""
