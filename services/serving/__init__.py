"""What every reward service shares: settings, gRPC and HTTP on one event loop, admission, image decoding, health, metrics."""
