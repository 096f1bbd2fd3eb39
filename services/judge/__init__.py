"""A reward that asks a model behind any OpenAI-compatible server about each image."""
