"""Benchmarks: each measures Rempart beside a peer in the same run, interleaved, and writes var/bench/<name>.json."""
