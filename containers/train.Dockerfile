# Training and everything else on the CPU; with a GPU, install ".[gpu]" on an image with NVIDIA's runtime.
#   docker build -f containers/train.Dockerfile -t hairline .
#   docker run --rm -v "$PWD/photos:/photos:ro" -v "$PWD/results:/work" hairline train data=folder data.path=/photos
FROM python:3.12-slim

RUN useradd --create-home --uid 1000 hairline && mkdir /work /cache && chown hairline /work /cache
COPY . /source
RUN pip install --no-cache-dir --constraint /source/constraints.txt /source && rm -r /source

USER 1000
ENV HAIRLINE_CACHE=/cache
WORKDIR /work
ENTRYPOINT ["hairline"]
CMD ["train", "--help"]
