"""gRPC: images for anyone who asks, standard health, reflection on request."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from varl.policy.base import Policy, SamplingParams
from varl.services.rollout.generation import Limits, generate_images
from varl.services.rollout.images import encode_png
from varl.services.rollout.model import ModelThread, Weights
from varl.trajectories.sampling import sampling_params
from varl.v1 import rollout_pb2, rollout_pb2_grpc

SERVICE_NAME = rollout_pb2.DESCRIPTOR.services_by_name["RolloutService"].full_name
Context = grpc.aio.ServicerContext[rollout_pb2.GenerateRequest, rollout_pb2.GenerateResponse]


@dataclass(frozen=True)
class Model:
    """The loaded policy as both protocols of the worker use it."""

    policy: Policy
    weights: Weights
    thread: ModelThread


class RolloutServicer(rollout_pb2_grpc.RolloutServiceServicer):
    """RolloutService; ``model`` is None until the policy is loaded and while the worker stops.

    limits: of a batch, which may become smaller until then.
    """

    def __init__(self, default: SamplingParams, limits: Limits, max_images: int, max_waiting: int) -> None:
        self.model: Model | None = None
        self._default, self.limits, self._max_images, self._max_waiting = default, limits, max_images, max_waiting
        self._waiting = 0

    async def Generate(self, request: rollout_pb2.GenerateRequest, context: Context) -> rollout_pb2.GenerateResponse:  # noqa: N802
        """Draw images for one prompt with the weights that the worker holds now."""
        model = self.model
        if model is None or not model.weights.loaded:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no policy is loaded")
        if self._waiting >= self._max_waiting:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._waiting} requests are waiting, try again later"
            )
        self._waiting += 1
        try:
            return await self._generate(model, request)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise AssertionError from error  # abort raises
        finally:
            self._waiting -= 1

    async def _generate(self, model: Model, request: rollout_pb2.GenerateRequest) -> rollout_pb2.GenerateResponse:
        params = self._params(request)
        if not 1 <= request.count <= self._max_images:
            raise ValueError(f"count must be in 1..{self._max_images}, got {request.count}")
        async with model.thread.exclusive():
            steps = generate_images(model.policy, request.prompt, request.seed, request.count, params, self.limits)
            images = [encode_png(pixels) async for step in model.thread.steps(steps) for pixels in step.pixels]
            return rollout_pb2.GenerateResponse(images=images, weight_version=model.weights.version)

    def _params(self, request: rollout_pb2.GenerateRequest) -> SamplingParams:
        if not request.HasField("sampling"):
            return self._default
        try:
            return sampling_params(request.sampling)
        except ValueError as error:
            raise ValueError(f"sampling.{error}") from error
