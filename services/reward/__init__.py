"""A reward of one's own as a service, from a file or an import path."""
