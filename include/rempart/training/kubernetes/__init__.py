"""Jobs as pods: what is asked of a cluster, and what its answers mean. Pure; the orchestration and flows talk to it."""
