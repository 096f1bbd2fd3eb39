"""The gRPC protocol of every reward service, and its client."""
