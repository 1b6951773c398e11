"""List packages in the lock, the environment, images and Debian's databases; write their bill of materials."""
