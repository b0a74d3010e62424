# An image of the server: docker run -i --rm -v budget:/data -e BUDGET_USD=5 IMAGE
# Its steps were tried one by one on Python 3.13; where it was written, nothing could build an image.
FROM python:3.13-slim AS build
WORKDIR /source
RUN python -m venv /opt/budget
COPY requirements.lock .
RUN /opt/budget/bin/pip install --no-cache-dir --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY tools tools
RUN /opt/budget/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13-slim
RUN useradd --uid 10001 --create-home budget && install --directory --owner budget --mode 700 /data
COPY --from=build /opt/budget /opt/budget
ENV PATH=/opt/budget/bin:$PATH BUDGET_DATA_DIR=/data
USER budget
VOLUME /data
ENTRYPOINT ["cycles-budget-mcp"]
