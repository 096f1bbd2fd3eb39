"""Reward-server formats that other people's trainers already speak, one file each.

docs/compat.md says what to configure.
"""
