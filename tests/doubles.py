"""Local doubles of the web services: BigQuery's REST API, the public bucket, the image host, the Collection API."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import io
import json
import random
import sqlite3
import ssl
import threading
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

HTML = b"<!DOCTYPE html><html><body>Are you a robot?</body></html>"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        self.server.answer(self)

    do_POST = do_CONNECT = do_GET

    def reply(self, status: int, body: bytes, content_type: str, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def reply_json(self, status: int, answer: object) -> None:
        self.reply(status, json.dumps(answer).encode(), "application/json")

    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A server on a free port; `requests` lists (monotonic seconds, path) in order of arrival."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Callable[[Handler], None], tls: ssl.SSLContext | None = None):
        super().__init__(("127.0.0.1", 0), Handler)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self._answer = answer
        self.requests: list[tuple[float, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, handler: Handler) -> None:
        self.requests.append((time.monotonic(), handler.path))
        with contextlib.suppress(ConnectionError):  # The client may hang up.
            self._answer(handler)

    def handle_error(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def serving(answer: Callable[[Handler], None], tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    with Server(answer, tls) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class BigQuery:
    """Answers as BigQuery's REST API does, with SQLite as the engine: a reader of SQL that the scripts do not use.

    Args:
        tables: (column names, rows) by full table name.
        types: Column types by name where they are not STRING.
    """

    def __init__(self, tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]], types: dict[str, str]):
        self._types = types
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        for name, (columns, rows) in tables.items():
            declared = ", ".join(f'"{column}"' for column in columns)
            self._database.execute(f"CREATE TABLE `{name}` ({declared})")
            marks = ", ".join("?" * len(columns))
            self._database.executemany(f"INSERT INTO `{name}` VALUES ({marks})", rows)
        self._lock = threading.Lock()
        self._jobs: dict[str, tuple[list[str], list[Sequence[Any]]]] = {}
        self.bytes_processed = 12_345_678
        self.quota_exceeded = False
        self.busy_answers = 0  # So many answers are 503.
        self.page_rows = 10_000
        self.lost_rows = 0  # At the end of the answer, without a word.
        self.pages = 0

    def __call__(self, handler: Handler) -> None:
        with self._lock:
            body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
            address = urlsplit(handler.path)
            if self.busy_answers:
                self.busy_answers -= 1
                handler.reply_json(503, _error(503, "backendError", "Try again"))
            elif handler.command == "POST" and address.path.endswith("/jobs"):
                self._insert_job(handler, json.loads(body))
            elif "/queries/" in address.path:
                parameters = {name: values[0] for name, values in parse_qs(address.query).items()}
                self._send_page(handler, address.path.rpartition("/")[2], parameters)
            else:
                handler.reply_json(404, _error(404, "notFound", "Not found"))

    def _insert_job(self, handler: Handler, job: dict[str, Any]) -> None:
        configuration = job["configuration"]
        query = configuration["query"]
        reference = {**job["jobReference"], "location": "US"}
        processed = {"totalBytesProcessed": str(self.bytes_processed)}
        statistics = {**processed, "query": {"statementType": "SELECT", **processed}}
        if self.quota_exceeded:
            return handler.reply_json(403, _error(403, "quotaExceeded", "Quota exceeded: free query bytes scanned"))
        if not configuration.get("dryRun"):
            if int(query["maximumBytesBilled"]) < self.bytes_processed:
                return handler.reply_json(400, _error(400, "bytesBilledLimitExceeded", "Query exceeded limit"))
            try:
                cursor = self._database.execute(query["query"])
            except sqlite3.Error as error:
                return handler.reply_json(400, _error(400, "invalidQuery", str(error)))
            self._jobs[reference["jobId"]] = [column[0] for column in cursor.description], cursor.fetchall()
        handler.reply_json(
            200,
            {
                "jobReference": reference,
                "configuration": {"query": query, "jobType": "QUERY"},
                "status": {"state": "DONE"},
                "statistics": statistics,
            },
        )

    def _send_page(self, handler: Handler, job_id: str, parameters: dict[str, str]) -> None:
        columns, rows = self._jobs[job_id]
        start = int(parameters.get("pageToken", 0))
        end = start + min(self.page_rows, int(parameters.get("maxResults", self.page_rows)))
        self.pages += bool(rows[start:end]) and end > start
        sent = rows[: len(rows) - self.lost_rows][start:end]
        fields = [{"name": name, "type": self._types.get(name, "STRING"), "mode": "NULLABLE"} for name in columns]
        answer: dict[str, Any] = {
            "jobReference": {"projectId": "p", "jobId": job_id, "location": "US"},
            "jobComplete": True,
            "schema": {"fields": fields},
            "totalRows": str(len(rows)),
            "rows": [{"f": [{"v": _value(value)} for value in row]} for row in sent],
        }
        if end < len(rows):
            answer["pageToken"] = str(end)
        handler.reply_json(200, answer)


def _value(value: object) -> str | None:
    return None if value is None else str(value)


def _error(status: int, reason: str, message: str) -> dict[str, object]:
    return {"error": {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}}


# What may go wrong with an address, for good and (below) for the first visits only; shares of all addresses.
PERMANENT = {"404": 0.15, "damaged": 0.02, "text": 0.01, "endless": 0.003, "500": 0.002, "loop": 0.005}
PASSING = {
    "403 html": 0.01,
    "200 html": 0.005,
    "429": 0.002,
    "503": 0.001,
    "500": 0.03,
    "truncated": 0.03,
    "hang": 0.001,
}
HARMLESS = {"redirect": 0.05, "slow": 0.01, "png": 0.02}


class Museum:
    """The three services of the museum, with faults.

    Args:
        pictures: JPEGs as served; each artwork gets one of them, made its own by a comment.
        answer: A complete answer of the Collection API, to be filled in for each artwork.
        faults: Whether addresses go wrong, at random but the same for the same seed.
        latency_seconds: Before every answer.
    """

    def __init__(
        self,
        pictures: list[bytes],
        answer: dict[str, Any],
        faults: bool = True,
        latency_seconds: float = 0,
        seed: int = 0,
    ):
        self._pictures = pictures
        self._answer = answer
        self._faults = faults
        self._latency_seconds = latency_seconds
        self._seed = seed
        self._visits: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.servers: dict[str, Server] = {}

    @contextlib.contextmanager
    def open(self) -> Iterator["Museum"]:
        with contextlib.ExitStack() as stack:
            for service in ("images", "bucket", "api"):
                self.servers[service] = stack.enter_context(serving(self._respond))
            yield self

    @property
    def flags(self) -> list[str]:
        return [
            f"--bucket_url={self.servers['bucket'].url}/bucket",
            f"--collection_api_url={self.servers['api'].url}/api",
            "--allow_private_hosts",
        ]

    def listed_address(self, object_id: int) -> str:
        return f"{self.servers['images'].url}/CRDImages/li/original/{object_id}.jpg"

    def paths(self, object_id: int) -> dict[str, str]:
        """Returns the path of each source, the small size of the image host."""
        return {
            "listed": f"/CRDImages/li/web-large/{object_id}.jpg",
            "bucket": f"/bucket/{object_id}/0.jpg",
            "api": f"/api/objects/{object_id}",
            "named by api": f"/CRDImages/ap/web-large/{object_id}.jpg",
        }

    def fate(self, path: str) -> str:
        """Returns what happens at a path: "" or one of the faults."""
        if not self._faults:
            return ""
        draw = random.Random(f"{self._seed} {path}").random()
        for name, share in (PERMANENT | {f"at first {fault}": p for fault, p in PASSING.items()} | HARMLESS).items():
            draw -= share
            if draw < 0:
                return name
        return ""

    def can_be_had(self, object_id: int) -> bool:
        good = {source: self.fate(path) not in PERMANENT for source, path in self.paths(object_id).items()}
        return good["listed"] or good["bucket"] or (good["api"] and good["named by api"])

    def picture(self, object_id: int) -> bytes:
        """Returns a JPEG that no other artwork has."""
        picture = self._pictures[object_id % len(self._pictures)]
        comment = str(object_id).encode()
        return picture[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + picture[2:]

    def _respond(self, handler: Handler) -> None:
        time.sleep(self._latency_seconds)
        path = handler.path.replace("/moved", "")
        object_id = int(path.removesuffix("/0.jpg").removesuffix(".jpg").rpartition("/")[2])
        with self._lock:
            self._visits[path] += 1
            visits = self._visits[path]
        fate = self.fate(path)
        if fate.startswith("at first "):
            fate = fate.removeprefix("at first ") if visits <= 1 + object_id % 2 else ""
        if fate == "redirect" and handler.path.startswith("/moved"):
            fate = ""
        if path.startswith("/api/"):
            self._send(handler, fate, json.dumps(self._describe(object_id)).encode(), "application/json")
        else:
            self._send(handler, fate, self.picture(object_id), "image/jpeg")

    def _describe(self, object_id: int) -> dict[str, Any]:
        small = self.servers["images"].url + self.paths(object_id)["named by api"]
        large = small.replace("web-large", "original")
        return {**self._answer, "objectID": object_id, "primaryImage": large, "primaryImageSmall": small}

    def _send(self, handler: Handler, fate: str, body: bytes, content_type: str) -> None:
        if fate == "404":
            handler.reply(404, b'{"message":"Not a valid object"}', "application/json")
        elif fate == "damaged":
            handler.reply(200, body[: len(body) // 2], content_type)
        elif fate == "text":
            handler.reply(200, b"gone fishing", "text/plain")
        elif fate == "500":
            handler.reply(500, b"oops", "text/plain")
        elif fate == "503":
            handler.reply(503, b"busy", "text/plain", Retry_After="1")
        elif fate == "429":
            handler.reply(429, b"slow down", "text/plain", Retry_After="1")
        elif fate == "403 html":
            handler.reply(403, HTML, "text/html")
        elif fate == "200 html":
            handler.reply(200, HTML, "text/html; charset=utf-8")
        elif fate in ("redirect", "loop"):
            handler.reply(302, b"", "text/plain", Location=f"/moved{handler.path}")
        elif fate == "png" and content_type == "image/jpeg":
            handler.reply(200, as_png(body), content_type)
        elif fate in ("truncated", "endless", "hang", "slow"):
            self._send_raw(handler, fate, body, content_type)
        else:
            handler.reply(200, body, content_type)

    def _send_raw(self, handler: Handler, fate: str, body: bytes, content_type: str) -> None:
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Content-Type", content_type)
        if fate != "endless":
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if fate == "truncated":
            handler.wfile.write(body[: len(body) // 2])
        elif fate == "endless":
            while True:
                handler.wfile.write(body)
        elif fate == "hang":  # A byte now and then: never silent, never done.
            for index in range(100):
                handler.wfile.write(body[index : index + 1])
                time.sleep(0.3)
        elif fate == "slow":
            for start in range(0, len(body), len(body) // 5 + 1):
                handler.wfile.write(body[start : start + len(body) // 5 + 1])
                time.sleep(0.1)


def as_png(jpeg: bytes) -> bytes:
    output = io.BytesIO()
    Image.open(io.BytesIO(jpeg)).save(output, "PNG")
    return output.getvalue()
