"""Deliberate faults in a short real run, and what must hold at its end.

Parts of the run are killed, stopped, cut off and fed rubbish.
"""
