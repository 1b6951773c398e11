"""Write, verify and open restore points: consistent database dumps, objects by hash, and one manifest written last."""
