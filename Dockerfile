# Proctor and its libraries, at the versions of constraints.txt; projects are mounted (docs/clusters.md, "Containers").
#   pip wheel --no-deps --wheel-dir dist . && docker build --tag lab .
FROM debian:bookworm-slim

# Debian keeps one version of each package, so none can be pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 proctor

# Libraries first: this layer, of 6 GB, is built again only if one of the two files changes.
COPY constraints.txt pyproject.toml /opt/src/
RUN python3 -m venv /opt/proctor \
    && /opt/proctor/bin/pip install --no-cache-dir --constraint /opt/src/constraints.txt uv \
    && /opt/proctor/bin/uv pip install --no-cache --python /opt/proctor --constraint /opt/src/constraints.txt \
        --requirements /opt/src/pyproject.toml

COPY dist/*.whl /opt/src/
RUN /opt/proctor/bin/uv pip install --no-cache --python /opt/proctor --no-deps /opt/src/*.whl

USER 1000
# Caches work for any user, such as `docker run --user`, which has no home here.
ENV PATH=/opt/proctor/bin:$PATH XDG_CACHE_HOME=/tmp/cache
WORKDIR /project
CMD ["proctor", "--help"]
