"""Files written whole or not at all, disks that are waited for, and the log of metrics."""
