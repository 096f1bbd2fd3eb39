"""What starts processes on this machine.

The supervisor, a private Redis, cores, threads, ports, and facts about the machine.
"""
