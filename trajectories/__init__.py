"""Redis Streams between trainer and rollout workers: the codec, the queue, a private server."""
