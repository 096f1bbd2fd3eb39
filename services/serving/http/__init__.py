"""The HTTP protocol of every reward service."""
