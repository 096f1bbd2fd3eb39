"""What starts processes on this machine: the supervisor, a private Redis, cores, and facts about the machine."""
