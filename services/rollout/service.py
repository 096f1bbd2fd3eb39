"""gRPC: images for anyone who asks, standard health, reflection on request."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from varl.policy.base import Policy, SamplingParams
from varl.services.rollout.generation import Limits, generate_images
from varl.services.rollout.images import encode_png
from varl.services.rollout.model import ModelThread, Weights
from varl.services.rollout.places import NoPlaceError, Places
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
    """RolloutService; ``model`` is None until the policy is loaded and while the worker stops."""

    def __init__(self, default: SamplingParams, limits: Limits, max_images: int, places: Places) -> None:
        self.model: Model | None = None
        self._default, self._limits, self._max_images, self._places = default, limits, max_images, places

    async def Generate(self, request: rollout_pb2.GenerateRequest, context: Context) -> rollout_pb2.GenerateResponse:  # noqa: N802
        """Draw images for one prompt with the weights that the worker holds now."""
        model = self.model
        if model is None or not model.weights.loaded:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no policy is loaded")
        try:
            with self._places.taken():
                return await self._generate(model, request)
        except NoPlaceError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
            raise AssertionError from error  # abort raises
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise AssertionError from error

    async def _generate(self, model: Model, request: rollout_pb2.GenerateRequest) -> rollout_pb2.GenerateResponse:
        params = self._params(request)
        if not 1 <= request.count <= self._max_images:
            raise ValueError(f"count must be in 1..{self._max_images}, got {request.count}")
        async with model.thread.exclusive():
            steps = generate_images(model.policy, request.prompt, request.seed, request.count, params, self._limits)
            images = [encode_png(pixels) async for step in model.thread.steps(steps) for pixels in step.pixels]
            return rollout_pb2.GenerateResponse(images=images, weight_version=model.weights.version)

    def _params(self, request: rollout_pb2.GenerateRequest) -> SamplingParams:
        if not request.HasField("sampling"):
            return self._default
        try:
            return sampling_params(request.sampling)
        except ValueError as error:
            raise ValueError(f"sampling.{error}") from error
