"""The HPSv3 human-preference reward: how much people would like an image as the answer to a prompt."""
