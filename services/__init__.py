"""Services: rewards, rollouts, and what they share."""

import os

# gRPC's older socket layer: the newer one hands what it has read from thread to thread once more, some 7 % of what a
# small request costs (benchmarks/serving/overhead.py). It is here because gRPC reads this once, when it is imported.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener,-event_engine_client")
