"""What an evaluation measures of the images of a prompt, by the rewards that it has."""
