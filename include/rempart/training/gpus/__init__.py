"""The GPUs of a job: how it sees and measures them while it trains, and what they cost by the pool's contract."""
