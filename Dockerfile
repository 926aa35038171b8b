# An image of the environment in requirements.lock, with the project in /tgems; docs/containers.md says how to use it.
ARG PYTHON=3.11
FROM docker.io/library/python:${PYTHON}-slim-bookworm

# Where torch and torchvision come from: by default builds for the CPU. For CUDA, use https://pypi.org/simple.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Commit of the project, which results record, since the image holds no repository.
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="tgems" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${COMMIT}"

# Snakemake asks for the name of the user, which an id given by `docker run --user` does not have.
ENV PYTHONUNBUFFERED=1 \
    HOME=/home/tgems \
    USER=tgems
WORKDIR /tgems

# git reads the commit of a checkout that is mounted over /tgems.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory /tgems

COPY requirements.lock ./
RUN grep --extended-regexp '^torch(vision)?==' requirements.lock > /tmp/torch.lock \
    && pip install --no-cache-dir --no-deps --index-url "${TORCH_INDEX}" --requirement /tmp/torch.lock \
    && pip install --no-cache-dir --requirement requirements.lock \
    && rm /tmp/torch.lock

COPY . .
RUN pip install --no-cache-dir --no-deps --editable . \
    && printf '%s\n' "${COMMIT}" > tgems/COMMIT \
    && useradd --uid 1000 --no-create-home --home-dir /home/tgems tgems \
    && mkdir --parents results data /home/tgems \
    && chmod 1777 . results data /home/tgems

USER 1000
CMD ["snakemake", "--cores", "all"]
