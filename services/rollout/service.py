"""gRPC: images for anyone who asks, standard health, reflection on request."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from varl.policy.base import Policy, SamplingParams
from varl.services.rollout.generation import Limits, generate_images
from varl.services.rollout.images import encode_png
from varl.services.rollout.model import ModelThread, Weights
from varl.services.rollout.places import NoPlaceError, Places
from varl.services.serving.grpc.intake import Intake
from varl.services.serving.grpc.wire import Context, Requests, answered, parsed, to_bytes
from varl.services.serving.status import RejectionCode, RequestRejectedError
from varl.trajectories.sampling import sampling_params
from varl.v1 import rollout_pb2

SERVICE_NAME = rollout_pb2.DESCRIPTOR.services_by_name["RolloutService"].full_name
MAX_REQUEST_BYTES = 256 * 2**10  # a prompt and a few numbers
_SLOTS = 8


@dataclass(frozen=True)
class Model:
    """The loaded policy as both protocols of the worker use it."""

    policy: Policy
    weights: Weights
    thread: ModelThread


class RolloutServicer:
    """RolloutService; ``model`` is None until the policy is loaded and while the worker stops.

    limits: of a batch, which may become smaller until then.
    """

    def __init__(self, default: SamplingParams, limits: Limits, max_images: int, places: Places) -> None:
        self.model: Model | None = None
        self._default, self.limits, self._max_images, self._places = default, limits, max_images, places
        self._intake = Intake(_SLOTS)

    @property
    def handler(self) -> grpc.GenericRpcHandler:  # type: ignore[type-arg] # generic in the stubs alone
        """All methods."""
        method = grpc.stream_unary_rpc_method_handler(self.generate, response_serializer=to_bytes)
        return grpc.method_handlers_generic_handler(SERVICE_NAME, {"Generate": method})

    async def generate(self, requests: Requests, context: Context) -> rollout_pb2.GenerateResponse:
        """Draw images for one prompt with the weights that the worker holds now."""
        return await answered(context, self._drawn(requests))

    async def _drawn(self, requests: Requests) -> rollout_pb2.GenerateResponse:
        model = self.model
        if model is None or not model.weights.loaded:
            raise RequestRejectedError(RejectionCode.NOT_READY, "no policy is loaded", retry_after=1.0)
        data = await self._intake.message(requests)
        if len(data) > MAX_REQUEST_BYTES:
            raise RequestRejectedError(RejectionCode.REQUEST_TOO_LARGE, f"more than {MAX_REQUEST_BYTES} bytes")
        return await self._admitted(model, parsed(rollout_pb2.GenerateRequest, data))

    async def _admitted(self, model: Model, request: rollout_pb2.GenerateRequest) -> rollout_pb2.GenerateResponse:
        try:
            with self._places.taken():
                return await self._generate(model, request)
        except NoPlaceError as error:
            raise RequestRejectedError(RejectionCode.OVERLOADED, str(error), retry_after=1.0) from error
        except ValueError as error:
            raise RequestRejectedError(RejectionCode.INVALID_REQUEST, str(error)) from error

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
