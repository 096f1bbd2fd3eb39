"""Trains the tiny preference model: pairs of rendered pictures, HPSv3's loss.

Its preferences are a script's, not people's.
"""
