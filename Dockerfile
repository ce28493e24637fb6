# The server of pocketzoo: docs/guides/containers.md.
#
#   docker build --tag pocketzoo .                                 CPU
#   docker build --tag pocketzoo:cuda --build-arg RUNTIME=gpu .    NVIDIA GPU; CUDA and cuDNN come with onnxruntime-gpu
#
# tests/deploy/test_image.py runs these steps and the server without a container engine.

# constraints.txt holds the tested versions of this version of Python.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
ARG RUNTIME=cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# without pip, which the image does not need: the base image's pip installs into the environment
RUN python -m venv --without-pip /opt/zoo
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY examples examples
COPY zoo zoo
COPY serve serve
COPY train train
RUN pip --python /opt/zoo/bin/python install --no-cache-dir --constraint constraints.txt ".[${RUNTIME},serve]"

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="pocketzoo" \
      org.opencontainers.image.description="Small image classifiers behind HTTP" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/zoo /opt/zoo
# Models of your own: mount a folder with models/NAME/ at /data. HOME and temporary files are in /tmp, the only folder
# that must be writable. The two NVIDIA variables do nothing without a GPU.
ENV PATH=/opt/zoo/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    ZOO_HOME=/data \
    ZOO_HOST=0.0.0.0 \
    ZOO_PORT=8000 \
    ZOO_HEALTH_PORT=8001 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000 8001
# The health port answers under load, needs no API key and checks no host name.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, sys; from http.client import HTTPConnection; c = HTTPConnection('127.0.0.1', int(os.environ['ZOO_HEALTH_PORT']), timeout=2); c.request('GET', '/v2/health/ready'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["zoo"]
CMD ["serve"]
