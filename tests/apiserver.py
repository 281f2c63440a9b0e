"""A double of the Kubernetes API server, as far as `kubectl apply`, `create`, `delete` and `logs` ask it.

It keeps what it is given under namespace and name, and notes who asked for what; it runs nothing.
"""

from collections.abc import Iterator, Mapping
import contextlib
import http.server
import json
from pathlib import Path
import re
import threading
from typing import Any
from urllib.parse import parse_qs, urlsplit
import uuid

Object = dict[str, Any]

# Group and version: resource, kind, whether it belongs to a namespace.
RESOURCES = {
    "api/v1": [
        ("pods", "Pod", True),
        ("services", "Service", True),
        ("persistentvolumeclaims", "PersistentVolumeClaim", True),
        ("persistentvolumes", "PersistentVolume", False),
    ],
    "apis/batch/v1": [("jobs", "Job", True)],
    "apis/networking.k8s.io/v1": [("networkpolicies", "NetworkPolicy", True)],
}
PATH = re.compile(r"/(api/v1|apis/[\w.]+/v1)(?:/namespaces/([\w-]+))?/(\w+)(?:/([\w-]+))?(/log)?")


class Cluster:
    """The objects, by (namespace, resource, name); the log of each pod, by its name; and all requests so far."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.logs: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []  # Method and path.

    @contextlib.contextmanager
    def open(self, folder: Path, namespace: str) -> Iterator[Path]:
        """Serves on this machine while the block runs; yields a kubeconfig file for it."""
        cluster = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, answer = cluster.answer(self.command, self.path, body)
                content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_PATCH = do_DELETE = do_GET

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever).start()
            configuration = {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "namespace": namespace, "user": "test"}}],
                "users": [{"name": "test", "user": {}}],
                "current-context": "test",
            }
            path = folder / "kubeconfig"
            path.write_text(json.dumps(configuration))
            yield path
            server.shutdown()

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, Object | str]:
        """Returns HTTP status and content for a request."""
        url = urlsplit(target)
        self.requests.append((method, url.path))
        match = PATH.fullmatch(url.path)
        if match is None:
            return discovery(url.path)
        group, namespace, resource, name, log = match.groups(default="")
        key = (namespace, resource, name)
        if log:
            return 200, self.logs[name]
        if method == "POST":
            new = json.loads(body)
            key = (namespace, resource, new["metadata"]["name"])
            if key in self.objects:
                return failure(409, "AlreadyExists", f'{resource} "{key[2]}" already exists')
            new["metadata"] |= {"uid": str(uuid.uuid4()), "resourceVersion": "1"}
            if namespace:
                new["metadata"]["namespace"] = namespace
            self.objects[key] = new
            return 201, new
        if name == "":
            selector = dict(
                part.split("=") for part in parse_qs(url.query).get("labelSelector", [""])[0].split(",") if part
            )
            kind, items = self._list(group, namespace, resource, selector)
            return 200, {"kind": f"{kind}List", "apiVersion": group.partition("/")[2], "metadata": {}, "items": items}
        if key not in self.objects:
            return failure(404, "NotFound", f'{resource} "{name}" not found')
        if method == "DELETE":
            return 200, self.objects.pop(key)
        return 200, self.objects[key]  # A PATCH changes nothing; that it came is in `requests`.

    def _list(self, group: str, namespace: str, resource: str, selector: Mapping[str, str]) -> tuple[str, list[Object]]:
        (kind,) = (kind for known, kind, _ in RESOURCES[group] if known == resource)
        found = [
            each
            for (its_namespace, its_resource, _), each in self.objects.items()
            if (its_namespace, its_resource) == (namespace, resource)
            and selector.items() <= each["metadata"].get("labels", {}).items()
        ]
        return kind, found


def discovery(path: str) -> tuple[int, Object]:
    """Says what kinds of objects there are."""
    if path == "/api":
        return 200, {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = []
        for group in RESOURCES:
            if group.startswith("apis/"):
                version = {"groupVersion": group.removeprefix("apis/"), "version": "v1"}
                groups.append({"name": group.split("/")[1], "versions": [version], "preferredVersion": version})
        return 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    if path.strip("/") in RESOURCES:
        group_version = path.strip("/").partition("/")[2]
        verbs = ["create", "delete", "get", "list", "patch", "watch"]
        resources = [
            {"name": name, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": verbs}
            for name, kind, namespaced in RESOURCES[path.strip("/")]
        ]
        return 200, {"kind": "APIResourceList", "groupVersion": group_version, "resources": resources}
    return failure(404, "NotFound", f"{path} not found")


def failure(code: int, reason: str, message: str) -> tuple[int, Object]:
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return code, status | {"message": message, "reason": reason, "code": code}
