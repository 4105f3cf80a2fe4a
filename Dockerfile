# The lake and all that runs it: code server, webserver, daemon, and every run (docs/deploying.md).
FROM python:3.11-slim-bookworm AS build
ENV UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=/opt/lakeward UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /src
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --locked --no-dev --extra deploy --no-install-project
COPY src src
RUN uv sync --locked --no-dev --extra deploy --no-editable

FROM python:3.11-slim-bookworm
ENV PATH=/opt/lakeward/bin:$PATH PYTHONDONTWRITEBYTECODE=1 UV_PYTHON_DOWNLOADS=never DAGSTER_HOME=/lake/deploy
RUN useradd --uid 10001 --home-dir /lake/.lake --no-create-home lake
COPY --from=build /opt/lakeward /opt/lakeward
COPY deploy/dagster.yaml deploy/workspace.yaml /lake/deploy/
COPY orchestration /lake/orchestration
WORKDIR /lake
# A push with a file that is wrong ends here. What is written at run time is in these places and /tmp alone.
RUN lakeward check \
    && rm -rf .lake orchestration/target orchestration/logs \
    && install -d -o lake -g lake .lake orchestration/target orchestration/logs
USER 10001
CMD ["lakeward", "status"]
