"""What flows of several rooms need: the opened platform, pairs of sites, keys, the register of erasures."""
