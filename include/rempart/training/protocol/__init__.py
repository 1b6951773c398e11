"""How a job measures itself before anyone opens the hold-out: the split of its rows, validation and back-testing."""
