# Serves a saved model over HTTP, as MLflow does: POST /invocations with encoded images, GET /ping.
#   docker build -f containers/serve.Dockerfile -t hairline-serve .
#   docker run --rm -p 127.0.0.1:5001:5001 -e MLFLOW_TRACKING_URI=<server> -e MODEL=models:/hairline@champion hairline-serve
FROM python:3.12-slim

RUN useradd --create-home --uid 1000 hairline
COPY . /source
RUN pip install --no-cache-dir --constraint /source/constraints.txt /source && rm -r /source

USER 1000
WORKDIR /home/hairline
ENV MODEL=models:/hairline@champion
EXPOSE 5001
CMD ["sh", "-c", "exec mlflow models serve -m \"$MODEL\" --env-manager local --host 0.0.0.0 --port 5001"]
