"""What starts processes on this machine: the supervisor, a private Redis, cores, threads, ports, and facts about the machine."""
