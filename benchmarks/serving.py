"""A served model under load: answers, latencies, and malformed requests: one JSON line.

The script starts `mlflow models serve` on a free port of the loopback address and stops it at the end.
"""

from __future__ import annotations

import base64
import functools
import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import measure
import psutil

TOLERANCE = 1e-4
START_SECONDS = 180
HEADERS = {"Content-Type": "application/json"}


def main() -> None:
    """Measure and print."""
    parser = measure.parser(__doc__)
    parser.add_argument("--model", required=True, help="model to serve, for example models:/hairline@champion")
    parser.add_argument("--clients", type=int, default=8, help="number of concurrent clients")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds of load")
    parser.add_argument("--malformed", type=int, default=200, help="number of malformed requests")
    parser.add_argument("--limit", type=int, default=64, help="number of different images")
    settings = parser.parse_args()
    images = read_images(settings.images, settings.limit)
    expected = probabilities(settings.model, images)
    with served(settings.model) as (port, process):
        before = pids(process)
        warm = [ask(port, body(images[0]))[0] for _ in range(3)]
        answers = load(port, images, expected, settings.clients, settings.seconds)
        refused = [ask(port, *request) for request in malformed(settings.malformed, images[0])]
        last = wrong(ask(port, body(images[0])), expected[0])
        after = pids(process)
    values = figures(answers, settings.clients, settings.seconds)
    statuses = [status for status, _ in refused]
    values |= {
        "warm_up_statuses": warm,
        "malformed": len(statuses),
        "malformed_not_4xx": sum(not 400 <= status < 500 for status in statuses),
        "malformed_without_sentence": sum(not sentence(content) for _, content in refused),
        "malformed_statuses": {str(status): statuses.count(status) for status in sorted(set(statuses))},
        "wrong_after_malformed": int(last),
        "restarts": len(after - before),
        "gone": len(before - after),
    }
    measure.report({**values, **measure.machine()})


def read_images(folder: Path, limit: int) -> list[bytes]:
    """Read image files, in equal shares of the classes."""
    from hairline.data import classes, sources

    table = classes.subsample(sources.from_folder(path=str(folder)), limit, 0)
    return [Path(path).read_bytes() for path in table["path"]]


def probabilities(model: str, images: list[bytes]) -> list[dict[str, float]]:
    """Return the model's probabilities without a server, from a separate process."""
    code = (
        "import json, sys, hairline, base64\n"
        "images = [base64.b64decode(text) for text in json.load(sys.stdin)]\n"
        "table = hairline.load(sys.argv[1]).predict(images)\n"
        "print(table.filter(like='prob_').astype(float).to_json(orient='records', double_precision=15))"
    )
    texts = json.dumps([base64.b64encode(content).decode() for content in images])
    process = subprocess.run(
        [sys.executable, "-c", code, model], input=texts, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(process.stdout.splitlines()[-1])


@contextmanager
def served(model: str) -> Iterator[tuple[int, psutil.Process]]:
    """Serve a model on a free port until the block ends."""
    port = measure.free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    # Put this environment's uvicorn first.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        env=environment,
        stdout=sys.stderr,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not alive(port):
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit("the server did not start")
            time.sleep(0.5)
        yield port, psutil.Process(server.pid)
    finally:
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def alive(port: int) -> bool:
    """Return whether the server answers."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except OSError:
        return False


def pids(process: psutil.Process) -> set[int]:
    """Return the ids of the server's processes."""
    return {process.pid, *(child.pid for child in process.children(recursive=True))}


def body(content: bytes) -> bytes:
    """Return a valid request."""
    return json.dumps({"dataframe_records": [{"image": base64.b64encode(content).decode()}]}).encode()


def ask(port: int, content: bytes, headers: dict[str, str] = HEADERS) -> tuple[int, bytes]:
    """Send a request and return status and content; status 0 means no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/invocations", content, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError as error:
        return 0, str(error).encode()
    finally:
        connection.close()


def wrong(answer: tuple[int, bytes], expected: dict[str, float]) -> bool:
    """Return whether an answer differs from the expected probabilities."""
    status, content = answer
    if status != 200:
        return True
    row = json.loads(content)["predictions"][0]
    return any(not abs(row[name] - value) <= TOLERANCE for name, value in expected.items())


def load(
    port: int, images: list[bytes], expected: list[dict[str, float]], clients: int, seconds: float
) -> list[tuple[float, int, bool]]:
    """Send requests from several clients; return seconds, status and whether it was wrong for each."""
    bodies, answers, end = [body(content) for content in images], [], time.monotonic() + seconds

    def client(number: int) -> None:
        turn = number
        while time.monotonic() < end:
            started = time.perf_counter()
            answer = ask(port, bodies[turn % len(bodies)])
            elapsed = time.perf_counter() - started
            answers.append((elapsed, answer[0], wrong(answer, expected[turn % len(bodies)])))
            turn += clients + 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def figures(answers: list[tuple[float, int, bool]], clients: int, seconds: float) -> dict[str, Any]:
    """Return throughput and latencies."""
    times = sorted(elapsed for elapsed, _, _ in answers)
    cuts = statistics.quantiles(times, n=100)
    return {
        "clients": clients,
        "seconds": seconds,
        "requests": len(answers),
        "requests_per_second": len(answers) / seconds,
        "wrong": sum(bad for _, _, bad in answers),
        "milliseconds_median": cuts[49] * 1e3,
        "milliseconds_95": cuts[94] * 1e3,
        "milliseconds_99": cuts[98] * 1e3,
        "milliseconds_longest": times[-1] * 1e3,
    }


def malformed(count: int, image: bytes) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Yield malformed requests of many kinds, with different random bytes."""
    draw = random.Random(0)
    good = base64.b64encode(image).decode()
    huge = json.dumps({"dataframe_records": [{"image": "A" * 70_000_000}]}).encode()

    def records(*values: Any, name: str = "image") -> bytes:
        return json.dumps({"dataframe_records": [{name: value} for value in values]}).encode()

    def kinds() -> list[tuple[bytes, dict[str, str]]]:
        cut, noise = image[: draw.randrange(len(image) // 2)], draw.randbytes(draw.randrange(1, 4000))
        return [
            (b"", HEADERS), (b"", {}), (noise, HEADERS), (noise, {"Content-Type": "image/jpeg"}), (image, {}),
            (b"{", HEADERS), (b"[]", HEADERS), (b"null", HEADERS), (b"1", HEADERS), (b'"x"', HEADERS), (b"{}", HEADERS),
            (b"[" * 100_000, HEADERS), (b"1" * 10_000, HEADERS), (b'{"dataframe_records": NaN}', HEADERS),
            (records(), HEADERS), (records(None), HEADERS), (records(draw.random()), HEADERS),
            (records([good]), HEADERS),
            (records({"a": good}), HEADERS), (records(""), HEADERS), (records("not base64!"), HEADERS),
            (records("A"), HEADERS), (records(good[:-3]), HEADERS), (records("\ud800"), HEADERS),
            (records(good, name="picture"), HEADERS), (records(base64.b64encode(noise).decode()), HEADERS),
            (records(base64.b64encode(cut).decode()), HEADERS), (records(good, None), HEADERS),
            (records(*[good] * 65), HEADERS), (records(base64.b64encode(bomb()).decode()), HEADERS),
            (json.dumps({"dataframe_split": {"columns": ["image"], "data": [[1]]}}).encode(), HEADERS),
            (json.dumps({"dataframe_split": [good]}).encode(), HEADERS),
            (json.dumps({"inputs": good}).encode(), HEADERS),
            (json.dumps({"inputs": {"image": [5]}}).encode(), HEADERS),
            (json.dumps({"instances": [{"image": {"b64": "?"}}]}).encode(), HEADERS),
            (json.dumps({"messages": []}).encode(), HEADERS), (json.dumps({"input": good}).encode(), HEADERS),
            (records(good)[:-1], HEADERS), (records(good), {"Content-Type": "text/csv"}),
            (records(good), {"Content-Type": "application/json; charset=utf-16"}),
            (records(good), {"Content-Type": "application/json; version=9"}),
            (b"image\nx\n", {"Content-Type": "text/csv"}), (noise, {"Content-Type": "application/vnd.apache.parquet"}),
        ]  # fmt: skip

    made = 0
    yield huge, HEADERS
    while (made := made + 1) < count:
        options = kinds()
        yield options[(made - 1) % len(options)]


@functools.cache  # takes a second
def bomb() -> bytes:
    """Return a small file with many pixels."""
    import io

    from PIL import Image

    content = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(content, "PNG")
    return content.getvalue()


def sentence(content: bytes) -> bool:
    """Return whether an answer contains an error message."""
    try:
        text = json.loads(content)["message"]
    except (ValueError, KeyError, TypeError):
        text = content.decode(errors="replace")
    return len(text.split()) >= 4


if __name__ == "__main__":
    main()
