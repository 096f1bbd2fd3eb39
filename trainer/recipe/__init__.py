"""The settings of a run: sections, the whole, its description in words, and what changed since a run began."""
