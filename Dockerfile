# A processor is enough: docker build -t evalsuite . && docker run --rm -v "$PWD:/work" evalsuite run digits
# Reports are then root's; they are yours with --user "$(id -u):$(id -g)" before the name of the image.
FROM python:3.11-slim
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu
COPY . /src
RUN pip install --no-cache-dir /src && rm -r /src
WORKDIR /work
ENV OMP_NUM_THREADS=1
ENTRYPOINT ["python", "-m", "evalsuite"]
CMD ["--help"]
