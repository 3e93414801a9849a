"""`--serve`: on this machine only, with the newest records, and the reader's place kept."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.report.browser import LIMIT, Reader, chromium
from tests.report.written_runs import header, step, write
from xent.errors import OptionError, RunError
from xent.report.run_page import serve_report


@contextmanager
def served(run):
    """A server in a process of its own, as the command has it; its port."""
    program = "import sys; from xent.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "report", str(run), "--serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("serving    http://127.0.0.1:"), line + process.stderr.read()
        yield process, int(line.split(":")[2].split("/")[0])
    finally:
        process.kill()
        process.communicate()


def asked(port, path="/", **headers):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)) as connection:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer, answer.read().decode()


@pytest.mark.slow
def test_served_to_this_machine_only_and_ended_by_ctrl_c(tmp_path):
    run = write(tmp_path / "x", [header(), step(1, 2.0)])
    with served(run) as (process, port):
        answer, page = asked(port)
        assert answer.status == 200
        assert "connect-src &#39;self&#39;" in page or "connect-src 'self'" in page
        answer, text = asked(port, "/data.json")
        tag = answer.headers["ETag"]
        assert json.loads(text)["runs"][0]["steps"] == 1
        assert asked(port, "/data.json", **{"If-None-Match": tag})[0].status == 304
        with (run / "records.jsonl").open("a") as file:
            file.write(json.dumps(step(2, 1.0)) + "\n")
        answer, text = asked(port, "/data.json", **{"If-None-Match": tag})
        assert (answer.status, json.loads(text)["runs"][0]["steps"]) == (200, 2)
        assert asked(port, "/data.json", Host="example.org")[0].status == 403
        assert asked(port, "/../secret")[0].status == 404
        table = Path("/proc/net/tcp").read_text().splitlines()
        addresses = [line.split()[1] for line in table if f":{port:04X} 00000000" in line]
        assert addresses == [f"0100007F:{port:04X}"]  # 127.0.0.1, as the kernel writes it
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 0
        assert process.stderr.read() == ""


@pytest.mark.slow
def test_the_page_follows_the_training_and_keeps_the_readers_place(tmp_path):
    classes = {"kind": "classes", "classes": [{"class": 1, "name": "one", "loss": 1.0, "count": 2, "accuracy": 0.5}]}
    records = [header(), *(step(n, 2.0) for n in range(1, 50)), *(classes | {"step": n} for n in (1, 20, 40))]
    run = write(tmp_path / "x", records)
    with served(run) as (_, port), chromium() as driver:
        reader = Reader(driver)
        driver.get(f"http://127.0.0.1:{port}/")
        reader.one("#tab-where").click()
        reader.drag(reader.one("#slider-classes"), 0.5)
        assert reader.one("#slider-classes").get_attribute("aria-valuetext") == "step 20"
        with (run / "records.jsonl").open("a") as file:
            for record in (step(60, 1.0), classes | {"step": 60}):
                file.write(json.dumps(record) + "\n")
        deadline = time.monotonic() + LIMIT
        while "60 steps" not in reader.one("#status").text:
            assert time.monotonic() < deadline, "the page did not follow"
            time.sleep(0.1)
        assert reader.one("#tab-where").get_attribute("aria-selected") == "true"
        assert reader.one("#slider-classes").get_attribute("aria-valuetext") == "step 20"
        assert reader.one("#slider-classes").get_attribute("max") == "3"
        assert reader.one("#live").text == "live"
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_what_can_not_be_served(tmp_path):
    import socket

    with pytest.raises(RunError, match="is no directory"):
        serve_report([tmp_path / "none"], 0, print)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OptionError, match="can't be had"):
            serve_report([write(tmp_path / "x", [header()])], taken.getsockname()[1], print)
