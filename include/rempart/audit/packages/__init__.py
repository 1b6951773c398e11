"""Which packages there are: in the lock, installed, in images and in Debian's databases; their bill of materials."""
