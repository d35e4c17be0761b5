"""A Hub on 127.0.0.1: as much of the protocol as the real client needs to publish, load and pin a revision.

Everything is in memory. What the client asks is recorded, a path that is not known answers 404 and is kept in
`HubServer.unknown`, and faults happen on demand. Names of endpoints and headers are those of `huggingface_hub` 1.33 and
2.4; storage by Xet is left out, which HF_HUB_DISABLE_XET=1 turns off.

    with HubServer() as hub:
        run_with_hub(hub, "from handmim import HandMIM; HandMIM.from_pretrained('org/name')", cache=tmp_path)
        assert not hub.unknown
"""

import contextlib
import fnmatch
import re
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote

from hub_endpoints import ROUTES, Answer, Call, Refused, error
from hub_process import run_with_hub
from hub_repository import Repository


@dataclass(frozen=True)
class Request:
    """One request and how it was answered.

    Attributes:
        method: "GET", "HEAD", ...
        path: Without the query, quoted as it came.
        token: As the client sent it, or None.
        status: Of the answer.
        range: The Range header, or None.
    """

    method: str
    path: str
    token: str | None
    status: int
    range: str | None = None


@dataclass
class Fault:
    """What goes wrong where.

    Attributes:
        pattern: Of paths, as in a shell; the query does not count.
        kind: "status", "truncate" (a body that is declared short) or "hang up" (in the middle of the body).
        times: How often it still happens; None: always.
        answer: Of kind "status".
    """

    pattern: str
    kind: str
    times: int | None = None
    answer: Answer | None = None


class HubServer:
    """The server; a context manager.

    Attributes:
        url: For HF_ENDPOINT.
        storage_url: Where large files are. The name of the host is another one, as the Hub's: the client follows
            redirects on its own host only while it asks what a file is, and sends no token to another.
        token: One that may read and write everything that is not gated.
        user: Whom it belongs to. The user is also in the organisation "org".
        readers: Further tokens, which may only read, and of these everything that is gated.
        repos: Repositories by "org/name". Tests may put some here, commit to them, and look at `.files`.
        requests: Every `Request`, in the order of the answers.
        unknown: "METHOD path" of what no route fits.
    """

    def __init__(self) -> None:
        self.user, self.token = "tester", "hf_of_the_tester"
        self.readers: set[str] = set()
        self.repos: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.unknown: list[str] = []
        self.blobs: dict[str, bytes] = {}  # large files that were uploaded, by SHA-256
        self.lock = threading.RLock()
        self._faults: list[Fault] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self  # type: ignore[attr-defined]  # how a handler finds its Hub
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.storage_url = f"http://localhost:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No network from now on: the port refuses connections. Calling it twice does no harm."""
        self._server.shutdown()
        self._server.server_close()

    def create(self, repo_id: str, **options: Any) -> Repository:
        """A new, empty repository."""
        return self.repos.setdefault(repo_id, Repository(repo_id, **options))

    def fail(
        self, pattern: str, status: int, *, code: str = "", message: str = "as the test asked", times: int | None = None
    ) -> None:
        """Paths of a pattern (`*/resolve/*/model.safetensors`) answer with a status from now on.

        Args:
            pattern: As in a shell.
            status: 401, 403, 404, 500, ...
            code: The X-Error-Code that tells the client what is missing: "RepoNotFound", "GatedRepo", ...
            message: The X-Error-Message.
            times: How often; None: always.
        """
        self._faults.append(Fault(pattern, "status", times, error(status, code, message)))

    def truncate(self, pattern: str, times: int | None = None) -> None:
        """Bodies of a pattern have half their bytes, and the header says so: a proxy that cut a file."""
        self._faults.append(Fault(pattern, "truncate", times))

    def hang_up(self, pattern: str, times: int | None = 1) -> None:
        """The connection breaks after half a body."""
        self._faults.append(Fault(pattern, "hang up", times))

    def heal(self) -> None:
        """No faults any more."""
        self._faults.clear()

    def take_fault(self, path: str) -> Fault | None:
        """The fault that the next answer for a path has."""
        with self.lock:
            for fault in self._faults:
                if fnmatch.fnmatchcase(path, fault.pattern) and fault.times != 0:
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 around the endpoints: finds the route, applies the fault, records what happened."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub: HubServer = self.server.hub  # type: ignore[attr-defined]
        path, _, query = self.path.partition("?")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        body, fault = self._body(), hub.take_fault(path)
        with hub.lock:
            if fault is not None and fault.answer is not None:
                answer = fault.answer
            else:
                answer = self._routed(hub, path, query, body, token)
            hub.requests.append(Request(self.command, path, token, answer.status, self.headers.get("Range")))
        self._send(answer, fault.kind if fault else "")

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _routed(self, hub: HubServer, path: str, query: str, body: bytes, token: str | None) -> Answer:
        method = "GET" if self.command == "HEAD" else self.command
        for wanted, pattern, endpoint in ROUTES:
            match = re.fullmatch(pattern, path) if method == wanted else None
            if match is None:
                continue
            parts = {name: unquote(part) for name, part in match.groupdict().items() if part is not None}
            parameters = {name: values[-1] for name, values in parse_qs(query).items()}
            try:
                return endpoint(Call(hub, parts, parameters, body, token, self.headers.get("Range")))
            except Refused as refusal:
                return refusal.answer
        hub.unknown.append(f"{self.command} {path}")
        return error(404, "", f"this Hub knows no {self.command} {path}")

    def _body(self) -> bytes:
        """The request's body, of a stated length or in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, answer: Answer, fault: str) -> None:
        body = answer.body
        half = body[: len(body) // 2]
        body = half if fault == "truncate" and self.command != "HEAD" else body
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "hang up":
            body, self.close_connection = half, True
        with contextlib.suppress(ConnectionError):  # a client that has seen enough
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr: `HubServer.requests` has it."""


__all__ = ["HubServer", "Request", "run_with_hub"]
