"""The bootstrap bundle: what a bare machine needs to restore, besides the restore points."""
