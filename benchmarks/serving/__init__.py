"""Cost of the reward services and their behaviour under load, beside other servers of the same model.

All servers run on the same machine.
"""
