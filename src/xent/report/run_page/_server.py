"""A page that goes on: served to this machine only, its data read again whenever the page asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

from xent.errors import OptionError
from xent.report._page import inert_json, source_hash
from xent.report.run_page._comparison import page_data
from xent.report.run_page._html import html
from xent.report.run_page._records import RunRecords, records_of

HOST = "127.0.0.1"


class _Data:
    """The page's data, made again when the records have grown."""

    def __init__(self, runs: Sequence[RunRecords]) -> None:
        self._runs, self._lock = runs, Lock()
        self._made = page_data(runs)
        self._tag = self._text = ""

    def now(self) -> dict[str, Any]:
        """The newest data."""
        with self._lock:
            grown = [run.read_on() for run in self._runs]
            if any(grown):
                self._made = page_data(self._runs)
                self._tag = ""
            return self._made

    def as_json(self) -> tuple[str, str]:
        """The newest data as JSON, and a tag that changes with it."""
        data = self.now()
        with self._lock:
            if not self._tag:
                self._text = inert_json(data | {"live": True})
                self._tag = f'"{source_hash(self._text)}"'
            return self._text, self._tag


class _Handler(BaseHTTPRequestHandler):
    """Two addresses: the page, and its data. The host must be ours, so that no other site's name leads here."""

    data: _Data
    server_version = "xent"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        """Answer."""
        port = self.connection.getsockname()[1]
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            self._answer(403, "text/plain", "this server answers to 127.0.0.1 only\n")
        elif self.path == "/":
            self._answer(200, "text/html", html(self.data.now(), refresh=True))
        elif self.path == "/data.json":
            text, tag = self.data.as_json()
            unchanged = self.headers.get("If-None-Match") == tag
            self._answer(304 if unchanged else 200, "application/json", "" if unchanged else text, tag)
        else:
            self._answer(404, "text/plain", "there is only / here\n")

    def _answer(self, status: int, kind: str, text: str, tag: str = "") -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"),
            ("Content-Security-Policy", "frame-ancestors 'none'"), ("Cross-Origin-Resource-Policy", "same-origin"),
        ):  # fmt: skip
            self.send_header(name, value)
        if tag:
            self.send_header("ETag", tag)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: the terminal is the caller's."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that closes its tab while it is answered is no error."""


def serve_report(run_dirs: Sequence[Path], port: int, say: Callable[[str], None]) -> None:
    """Serve the page of some runs on 127.0.0.1 until Ctrl-C.

    Args:
        run_dirs: the directories of the runs.
        port: 0 for any free one.
        say: called with the address, once it answers.

    Raises:
        RunError: a directory without records.
        OptionError: the port is taken.
    """
    data = _Data([records_of(Path(path)) for path in run_dirs])
    handler = type("Handler", (_Handler,), {"data": data})
    try:
        server = _Server((HOST, port), handler)
    except OSError as error:
        raise OptionError(
            f"port {port} can't be had ({error.strerror})", "a page is served on a free port", "pass --port 0 for any"
        ) from error
    with server:
        try:
            say(f"http://{HOST}:{server.server_address[1]}/")
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            return
