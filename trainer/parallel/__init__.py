"""One run trained by several processes, a device each, under torchrun; docs/several_gpus.md.

Rank 0 is the trainer as it is alone: it owns Redis, the run directory and every decision about the run, and tells the
others what to do with it (``ranks``). All hold a part of the weights, gradients, moments and averages (FSDP2,
``mesh``), share the passes of an update (``shares``, ``state``) and write their parts of a checkpoint (``shards``).
"""
