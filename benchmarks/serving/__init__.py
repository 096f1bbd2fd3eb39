"""What the reward services cost and how they behave under load, beside other servers of the same model on the same machine."""
