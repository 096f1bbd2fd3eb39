"""What a recipe asks of a device: parameters, memory, FLOPs and bytes, from the model's config.json alone."""
