"""What every reward service shares.

Settings, gRPC and HTTP on one event loop, admission, image decoding, health, metrics.
"""
