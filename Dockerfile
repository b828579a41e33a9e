# The server with the demo model in an image, for CPUs or for NVIDIA GPUs: `make image`, `make image TARGET=cuda`.
# Its steps are the Makefile's, so an image holds what `make serve` runs. Both targets start from the same slim
# image: a CUDA build of torch brings the CUDA libraries along, so the host only needs the driver and NVIDIA's
# container toolkit. Pass PIP_ARGS with the index of PyTorch's CPU builds to keep those gigabytes out of `cpu`.
#
#   docker run --init --rm -p 127.0.0.1:8080:8080 -p 127.0.0.1:8082:8082 --name segserve segserve:cpu
#   docker exec segserve cat run/key_file.json       # the tokens: they are on for whatever listens beyond loopback
#
# With a root that cannot be written to. What is written: run/ (sockets, tokens, logs, unpacked models; netty loads a
# library from there, so it must be `exec`, which Docker's tmpfs is not by itself), the cache of compiled code, /tmp. A
# rollout also writes to model_store/: mount one, as docs/operating.md has it, and a volume instead of the first tmpfs
# where a new container shall know what was in service.
#
#   docker run --init --rm --read-only --cap-drop=ALL --security-opt=no-new-privileges \
#     --tmpfs /app/run:exec,uid=10001,mode=0700 --tmpfs /home/segserve/.cache:uid=10001,mode=0700 \
#     --tmpfs /tmp:size=64m -p 127.0.0.1:8080:8080 --name segserve segserve:cpu

FROM python:3.11-slim-bookworm AS base
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make=4.3-* \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 segserve \
    && install --directory --owner=segserve --group=segserve /app /app/run
WORKDIR /app
USER 10001

FROM base AS build
ARG PIP_ARGS=""
ENV PIP_NO_CACHE_DIR=1
COPY --chown=segserve:segserve Makefile pyproject.toml constraints.txt ./
RUN make setup EXTRAS= PIP_ARGS="$PIP_ARGS"
ARG ENGINE=onnx
COPY --chown=segserve:segserve . .
RUN make package EXTRAS= ENGINE="$ENGINE"

FROM base AS runtime
COPY --from=build --chown=segserve:segserve /app/.venv .venv
COPY --chown=segserve:segserve config.properties ./
COPY --chown=segserve:segserve segserve segserve
COPY --chown=segserve:segserve deploy deploy
COPY --from=build --chown=segserve:segserve /app/model_store/rooms.mar model_store/
# 8082 is /metrics, which never asks for a token: only who shares a network with the container reaches it. Publish it to
# Prometheus alone, as above, or let Prometheus join that network.
EXPOSE 8080 8082
# Not /ping, which is content before any worker is ready: a READY worker for every model.
HEALTHCHECK --interval=30s --timeout=20s --start-period=2m CMD [".venv/bin/python", "-m", "deploy.status"]
CMD [".venv/bin/python", "-m", "deploy.server", "start", "--host", "0.0.0.0", "--metrics-host", "0.0.0.0"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM runtime AS cpu
