"""Items from many requests become batches: queue, threads, forwards, spans."""
