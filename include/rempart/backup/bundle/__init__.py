"""Write and open the bootstrap bundle: what a bare machine needs to restore, in addition to the restore points."""
