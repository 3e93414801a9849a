"""A hub name: from a stand-in of the hub, from its cache, and in one line where there is neither.

The hub itself is out of reach here. The stand-in answers on 127.0.0.1 as the hub does (headers and status codes as
huggingface_hub 2.4 reads them), so that the loaders of transformers run as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
from tests.scoring.hub_model import write_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Hub(BaseHTTPRequestHandler):
    """One model, tiny/llama, of one commit."""

    folder: Path

    def do_GET(self) -> None:
        self._answer(self._content())

    def do_HEAD(self) -> None:
        self._answer(self._content())

    def log_message(self, *arguments: Any) -> None:
        pass

    def _content(self) -> bytes | None:
        """A file's content, a description of the model, or None for what is not there."""
        path = self.path.partition("?")[0]
        if path in ("/api/models/tiny/llama", "/api/models/tiny/llama/revision/main"):
            return json.dumps({"id": "tiny/llama", "modelId": "tiny/llama", "sha": COMMIT, "siblings": []}).encode()
        if path.startswith(f"/api/models/tiny/llama/tree/{COMMIT}"):
            return b"[]"
        for revision in ("main", COMMIT):
            file = self.folder / path.removeprefix(f"/tiny/llama/resolve/{revision}/")
            if path.startswith(f"/tiny/llama/resolve/{revision}/") and file.is_file():
                return file.read_bytes()
        return None

    def _answer(self, content: bytes | None) -> None:
        self.send_response(200 if content is not None else 404)
        if content is None:
            known = "tiny/llama" in self.path
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content or b"")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    write_model(tmp_path / "files")
    kind = type("Hub", (_Hub,), {"folder": tmp_path / "files"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def _scored(tmp_path: Path, endpoint: str, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "texts.txt").write_text("the cat sat")
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()
    }
    environment = {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), **environment}
    code = "import sys; from xent.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = [sys.executable, "-c", code, "score", command[0], str(tmp_path / "texts.txt"), *command[1:]]
    return subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=300, env=environment)


NOWHERE = "http://127.0.0.1:9"  # discard: nothing listens


@pytest.mark.slow
def test_a_name_is_loaded_and_later_found_in_the_cache(hub: str, tmp_path: Path) -> None:
    first = _scored(tmp_path, hub, "tiny/llama")
    assert (first.returncode, first.stderr) == (0, "")
    assert f"model      tiny/llama at {COMMIT[:8]}, LlamaForCausalLM" in first.stdout
    own = _scored(tmp_path, NOWHERE, str(tmp_path / "files"))
    totals = [line for line in own.stdout.splitlines() if line.startswith(("scored", "total"))]
    assert len(totals) == 2
    assert set(totals) <= set(first.stdout.splitlines())
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        again = _scored(tmp_path, NOWHERE, "tiny/llama", **environment)
        assert (again.returncode, again.stderr) == (0, "")
        assert "hub        can't be reached: this is what its cache holds" in again.stdout
        assert set(first.stdout.splitlines()) <= set(again.stdout.splitlines())
    unknown = _scored(tmp_path, hub, "tiny/other")
    assert unknown.returncode == 2
    assert unknown.stderr == (
        "xent: error: the hub has no model tiny/other, or hides it; a model is a directory, a run or a hub name: "
        "check the name\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_without_network_and_cache_one_line_says_so(tmp_path: Path, environment: dict[str, str]) -> None:
    done = _scored(tmp_path, NOWHERE, "gpt2", **environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("xent: error: model gpt2: the hub can't be reached (")
    assert "), and its cache does not hold it; " in done.stderr
    assert done.stderr.endswith(": check the name and the network\n")
    assert done.stderr.count("\n") == 1


def test_the_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    """The loader of transformers would ask for each file six times, with pauses: minutes."""
    import huggingface_hub
    import transformers

    from xent.cli._main import run

    asked = []

    def refused(self: Any, name: str, **options: Any) -> None:
        asked.append((name, options["timeout"]))
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refused)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "texts.txt").write_text("the cat sat")
    assert run(["score", "tiny/nowhere", str(tmp_path / "texts.txt")]) == 2
    error = capsys.readouterr().err
    assert "the hub can't be reached (Name or service not known), and its cache does not hold it" in error
    assert error.count("\n") == 1
    assert [timeout for _, timeout in asked] == [10]
