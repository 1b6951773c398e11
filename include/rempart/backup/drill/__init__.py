"""Parts of a restore drill: its scratch space, its checks, its simulated attack and its report."""
