"""Runs that answer a question: the demo, and what is made of runs for people to read."""
