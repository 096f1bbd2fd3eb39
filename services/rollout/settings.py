"""Settings of the rollout service; flags over environment over defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, CliImplicitFlag, SettingsConfigDict

from varl.launch.resources import BundledPath
from varl.policy.base import SamplingParams
from varl.policy.load import DtypeName
from varl.services.serving.credentials import ClientFiles, ServerFiles
from varl.services.serving.settings import MOST, Count, Port, Seconds, Threads
from varl.trajectories.access import RedisAccess
from varl.trajectories.job_checks import MAX_RUN_ID_CHARS, RUN_ID
from varl.trajectories.weight_places import WeightPlaces


class DefaultSampling(BaseModel):
    """How tokens are sampled for Generate requests that do not say; jobs always say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(default=1.0, gt=0, le=MOST, description="Logits are divided by it.")
    top_k: int = Field(default=0, ge=0, le=MOST, description="Codes kept at each site; 0 keeps all.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Probability mass kept at each site; 1 keeps all.")
    cfg: float = Field(default=0.0, ge=0, le=MOST, description="Guidance at the last scale; 0 for none.")
    cfg_constant: CliImplicitFlag[bool] = Field(
        default=False, description="The same guidance at every scale instead of a ramp from 0."
    )

    def params(self) -> SamplingParams:
        """Convert to the policy's own type."""
        return SamplingParams(**self.model_dump())


class RolloutServiceSettings(BaseSettings):
    """Generates and scores groups of images for a training run, and images on request."""

    model_config = SettingsConfigDict(
        env_prefix="VARL_ROLLOUT_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        cli_prog_name="python -m varl.services.rollout",
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_show_env_vars=True,
    )

    redis_url: SecretStr = Field(
        SecretStr(""),
        description="Redis of the run: redis://…, rediss://… or unix://…. Without it, run-id and reward no jobs are "
        "taken: images are drawn on request.",
    )
    redis_password_file: Path | None = Field(
        None, description="File with Redis's password; a user of its ACL is named in the URL."
    )
    redis_ca_file: Path | None = Field(
        None, description="PEM file of the authority that signed Redis's certificate, for rediss://."
    )
    redis_cert_file: Path | None = Field(
        None, description="PEM file of the worker's own certificate, where Redis asks for one."
    )
    redis_key_file: Path | None = Field(None, description="PEM file of its key.")
    run_id: str = Field(
        "", pattern=f"^$|{RUN_ID}", max_length=MAX_RUN_ID_CHARS, description="The run whose jobs are processed."
    )
    model_dir: BundledPath = Field(description="Folder with config.json, policy.safetensors and tokenizer.safetensors.")
    reward: dict[str, str] = Field(
        {}, description="Reward services by name: ocr=HOST:PORT (gRPC). Can be given several times."
    )
    reward_token_file: Path | None = Field(
        None, description="File with the bearer token that the reward services want; default: none."
    )
    reward_ca_file: Path | None = Field(
        None, description="PEM file of the authority that signed the reward services' certificates; default: no TLS."
    )
    reward_cert_file: Path | None = Field(
        None, description="PEM file of the worker's own certificate, where the rewards ask for one."
    )
    reward_key_file: Path | None = Field(None, description="PEM file of its key.")
    weights_prefix: tuple[str, ...] = Field(
        ("/",),
        min_length=1,
        description="Where published weights may lie: absolute folders, URLs of stores (s3://BUCKET/runs); "
        "the model's folder is always allowed. Can be given several times. Default: any folder, no store.",
    )
    weights_cache: Path | None = Field(
        None, description="Folder for published weights that come from elsewhere; default: a temporary one."
    )
    device: str = Field("cpu", description="Torch device of the policy: cpu, cuda:0, …")
    device_share: float = Field(
        1.0, gt=0, le=1, description="Part of a GPU's memory that this worker may take; workers on one GPU divide it."
    )
    dtype: DtypeName = Field("float32", description="Of the policy's weights and arithmetic.")
    plugin: str = Field(
        "", description="package.module:function that loads model_dir; default: config.json names the architecture."
    )
    threads: Threads = Field(1, description="Torch threads of the policy.")
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all interfaces.")
    grpc_port: Port = Field(50052, description="gRPC port; 0 picks a free one.")
    token_file: Path | None = Field(
        None,
        description="File of bearer tokens, one a line: Generate needs one of them, health none. Default: none does.",
    )
    tls_cert_file: Path | None = Field(
        None, description="PEM file of the certificate of the gRPC port and its chain; default: no TLS."
    )
    tls_key_file: Path | None = Field(None, description="PEM file of its key.")
    tls_client_ca_file: Path | None = Field(
        None,
        description="PEM file of an authority: gRPC clients must show a certificate that it signed. Default: none do.",
    )
    http_port: Port | None = Field(
        None,
        description="Port of a page to try the policy and of POST /v1/generate; 0 picks a free one. Default: none.",
    )
    tuned_weights: Path | None = Field(
        None, description="Folder whose *.safetensors files that page may load beside the base weights, by name."
    )
    metrics_port: Port = Field(9102, description="Port of GET /metrics; 0 picks a free one.")
    reflection: CliImplicitFlag[bool] = Field(False, description="Offer gRPC server reflection.")
    worker: str = Field(
        "", description="Name in trajectories, unique in the run; default: host, process id and a random part."
    )
    concurrency: Count = Field(2, description="Jobs in hand at a time: one is generated while the others are scored.")
    sample_batch: Count = Field(64, description="Sequences sampled together at most; fewer where a GPU has no room.")
    batch_invariant: CliImplicitFlag[bool] = Field(
        False,
        description="Fill every batch up to the same number of sequences: on a GPU, whose arithmetic depends on that "
        "number, a candidate's tokens then do not depend on how many there are.",
    )
    decode_batch: Count = Field(8, description="Images decoded together and sent to the rewards in one request.")
    score_batches: Count = Field(
        8, description="Requests to each reward in flight; when there are more, generation waits."
    )
    score_timeout_s: Seconds = Field(
        120.0, gt=0, description="How long a reward may take over a request, retries included."
    )
    ready_timeout_s: Seconds = Field(
        300.0,
        gt=0,
        description="How long the policy, Redis and the rewards may take to be ready; then exit with code 1.",
    )
    min_idle_s: Seconds = Field(
        60.0, ge=0.1, description="A job without a heartbeat for so long was left by a dead worker."
    )
    max_deliveries: Count = Field(
        3, description="A job handed out more often than this goes to the dead-letter stream."
    )
    max_prompt_chars: Count = Field(4096, description="Characters of a prompt.")
    max_images: Count = Field(16, description="Images that one Generate request may ask for.")
    max_waiting: Count = Field(
        16, description="Generate requests taken in at a time; more are answered RESOURCE_EXHAUSTED."
    )
    grace_seconds: Seconds = Field(
        100.0,
        description="How long jobs in hand, and then requests, may take to finish once the service is told to stop.",
    )
    sampling: DefaultSampling = Field(DefaultSampling(), description="Default of Generate requests.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line written to stderr."
    )
    dry_run: CliImplicitFlag[bool] = Field(False, description="Print the settings as resolved, as JSON, and exit.")

    @model_validator(mode="after")
    def _jobs_are_named_whole(self) -> Self:
        lacking = [name for name in ("redis_url", "run_id", "reward") if not getattr(self, name)]
        if 0 < len(lacking) < 3:
            raise ValueError(f"redis_url, run_id and reward go together; there is no {' and no '.join(lacking)}")
        return self

    @model_validator(mode="after")
    def _credentials_fit(self) -> Self:
        self.redis()
        self.weight_places()
        self.reward_files()
        self.grpc_files()
        return self

    def weight_places(self) -> WeightPlaces:
        """Where weights may be read from; raises ValueError for a prefix that is neither folder nor store."""
        return WeightPlaces.of(self.weights_prefix)

    def reward_files(self) -> ClientFiles:
        """What the rewards are shown; raises ValueError where it contradicts itself."""
        return ClientFiles(self.reward_token_file, self.reward_ca_file, self.reward_cert_file, self.reward_key_file)

    def grpc_files(self) -> ServerFiles:
        """Certificates of the gRPC port; raises ValueError where they contradict each other."""
        return ServerFiles(self.tls_cert_file, self.tls_key_file, self.tls_client_ca_file)

    def redis(self) -> RedisAccess:
        """Address and credentials of Redis; raises ValueError where they contradict each other."""
        url = self.redis_url.get_secret_value()
        return RedisAccess(url, self.redis_password_file, self.redis_ca_file, self.redis_cert_file, self.redis_key_file)
