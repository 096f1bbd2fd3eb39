"""Published benchmarks: their prompts from their own files, their figures by their own rules."""
