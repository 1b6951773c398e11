"""Restore points: databases dumped consistently, objects by hash, one manifest written last; and what proves them."""
