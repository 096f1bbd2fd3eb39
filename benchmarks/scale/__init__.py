"""Capacity at the papers' settings: arithmetic with its assumptions named, and a simulation with the real queue."""
