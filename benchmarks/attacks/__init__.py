"""What callers without a token can do to a reward service: one core for the server, attackers and probes on another."""
