"""Services: rewards, rollouts, and what they share."""
