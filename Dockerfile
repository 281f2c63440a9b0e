# The image of every pod: the scripts in /model and, where data/ holds records, its records in /data.
#
#   docker build -t met-art:1.0.0 .                                                  CPU
#   docker build -t met-art:1.0.0 --build-arg REQUIREMENTS=requirements/gpu.lock .   NVIDIA GPU
#
# A tag can move; `--build-arg BASE_IMAGE=python:3.11.15-slim-bookworm@sha256:...` holds it to one digest.
ARG BASE_IMAGE=docker.io/library/python:3.11.15-slim-bookworm

# COPY fails on a folder that is not there, and data/ is optional: this stage makes it and lets every user read the files.
FROM ${BASE_IMAGE} AS files
COPY . /files
RUN mkdir -p /files/data /files/model \
    && mv /files/*.py /files/metart /files/model \
    && chmod -R a+rX,go-w /files

FROM ${BASE_IMAGE}
# In a virtual environment because Debian's own Python refuses to be installed into.
# The headers (a fifth of TensorFlow) serve only those who compile their own operations.
# Packages are those of the lock file, to the byte, and come built: nothing of theirs runs before it was checked.
ARG REQUIREMENTS=requirements/cpu.lock
COPY requirements/*.lock /opt/requirements/
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --require-hashes --only-binary :all: \
        --requirement /opt/${REQUIREMENTS} \
    && rm -rf /opt/venv/lib/python3*/site-packages/tensorflow/include
# A user of its own, with the number that the manifests name; /tmp is the one folder that any user may always write to.
RUN useradd --uid 1000 --user-group --no-create-home met-art
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1

# What changes most often comes last: an edited script costs a copy, not an installation.
COPY --from=files /files/data /data
COPY --from=files /files/model /model
WORKDIR /model
USER 1000:1000
