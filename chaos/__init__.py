"""Faults on purpose: a short real run whose parts are killed, stopped, cut off and fed rubbish, and what must hold at its end."""
