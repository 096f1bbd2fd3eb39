"""The OCR reward: engines that read text, the reward formulas, and the service."""
