"""`xent bench` end to end, in a process of its own; nothing here depends on how long anything takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xent.bench import page, questions, results
from xent.bench.runner import Run, Settings
from xent.errors import DataError, OptionError

SMALL = ("--quick", "--without", "compiled", "--threads", "1", "--seconds", "0.1")


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from xent.cli import main; sys.exit(main())", "bench", *arguments]
    environment = {**os.environ, "COLUMNS": "80", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    out = tmp_path_factory.mktemp("results")
    done = bench("cross-entropy", *SMALL, "--only", "*-256x1000", "--no-memory", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    return done, out


def test_a_run_writes_what_it_prints(run: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, out = run
    (path,) = out.iterdir()  # and no temporary file beside it
    assert path.name.startswith("cross-entropy-")
    assert path.name.endswith("-1t-quick.json")
    assert json.loads(done.stdout) == json.loads(path.read_text(encoding="utf-8"))


def test_the_results_have_their_parts(run: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    written: dict[str, Any] = json.loads(run[0].stdout)
    assert written["schema"] == results.SCHEMA
    assert written["machine"]["threads"] == 1
    assert {"cpu", "cores", "instruction_sets", "memory_gib", "transparent_huge_pages"} <= set(written["machine"])
    assert {"python", "torch", "xent"} <= set(written["machine"]["versions"])
    assert [contest["name"] for contest in written["contests"]] == [
        "forward-float32-256x1000",
        "both-bfloat16-256x1000",
    ]
    for contest in written["contests"]:
        assert contest["backend"]["chosen"] in ("native", "triton", "reference", "torch")
        for name in ("xent", "torch", "read", "clone"):
            record = contest["contestants"][name]
            assert record["fastest_ms"] <= record["q1_ms"] <= record["median_ms"] <= record["q3_ms"]
            assert record["rounds"] >= 3
        assert contest["contestants"]["torch"]["ratio"] == 1.0
        assert ("gradient_error" in contest["contestants"]["xent"]) is contest["backward"]
    assert written["contests"][1]["contestants"]["xent"]["gradient_error"] < 0.01


def test_who_is_not_here_is_listed_with_the_reason(run: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    written = json.loads(run[0].stdout)
    assert written["absent"]["compiled"] == "left out by --without"
    assert written["contests"][0]["contestants"]["compiled"] == {"note": "left out by --without"}
    assert "torch.compile of it: left out by --without" in run[0].stderr


def test_the_table_fits_80_columns(run: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    tables = [line for line in run[0].stderr.splitlines() if line.startswith(("xent.cross", "F.cross", "logits."))]
    assert len(tables) == 8
    assert all(len(line) <= 80 and "…" not in line for line in tables)


def test_a_peer_that_is_not_installed_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from xent.bench import peers

    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    monkeypatch.setattr(peers.shutil, "which", lambda name: None)
    reasons = peers.absent("xent", "compiled", "optax", "cce")
    assert set(reasons) == {"compiled", "optax", "cce"}
    assert reasons["optax"] == "jax and optax not installed: pip install 'xent[bench]'"
    assert "compiler" in reasons["compiled"]
    assert "triton" in reasons["cce"]


def test_memory_of_a_contestant_is_in_the_results(tmp_path: Path) -> None:
    left_out = [part for name in ("optax", "xent", "read") for part in ("--without", name)]
    done = bench("cross-entropy", *SMALL, *left_out, "--only", "2048x2048", "--out", str(tmp_path), "--json")
    contestants = json.loads(done.stdout)["contests"][0]["contestants"]
    assert contestants["clone"]["extra_bytes"] == pytest.approx(2048 * 2048 * 4, rel=0.15)
    assert contestants["torch"]["extra_bytes"] > contestants["clone"]["extra_bytes"]


def test_linear_names_the_baseline_and_the_products(tmp_path: Path) -> None:
    left_out = [part for name in ("optax", "cce", "chunked") for part in ("--without", name)]
    done = bench("linear", *SMALL, *left_out, "--only", "float32-", "--no-memory", "--out", str(tmp_path), "--json")
    contestants = json.loads(done.stdout)["contests"][0]["contestants"]
    assert contestants["naive"]["ratio"] == 1.0
    assert contestants["products"]["median_ms"] > 0
    assert contestants["xent"]["gradient_error"] < 1e-5  # float32 products of 32 and 1000 terms


def test_contestants_join_the_records_of_others(tmp_path: Path) -> None:
    def contestants(*options: str) -> dict[str, Any]:
        run = ("linear", *SMALL, "--only", "float32-", "--no-memory", "--out", str(tmp_path), "--json")
        contest = json.loads(bench(*run, *options).stdout)["contests"][0]
        when.append((contest["measured_at"], contest["load_before"]))
        return contest["contestants"]

    when: list[tuple[str, float]] = []
    first = contestants("--with", "naive")
    assert first["torch"] == {"note": "not measured"}
    second = contestants("--with", "torch")
    for name in ("naive", "xent", "products"):
        assert second[name] == first[name]
    beside = second["torch"]["beside"]
    assert set(beside) == {"xent", "products"}
    through_xent = first["xent"]["ratio"] * beside["xent"] / second["torch"]["median_ms"]
    assert second["torch"]["ratio"] == pytest.approx(through_xent, rel=1e-3)  # both are written with four digits
    third = contestants("--with", "torch", "--no-time")
    assert {**third["torch"], "gradient_error": 0} == {**second["torch"], "gradient_error": 0}
    assert third["torch"]["gradient_error"] < 1e-5
    too_slow = contestants("--with", "chunked", "--limit", "1e-6")["chunked"]
    assert "over the time limit" in too_slow["note"]
    measured = contestants("--with", "chunked", "--no-time")["chunked"]  # what was said of its time is still true
    assert measured == {**too_slow, "gradient_error": measured["gradient_error"], "loss": measured["loss"]}
    assert when[-1] == when[-2]  # nothing was timed since


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    code = "import sys; from xent.cli import main; sys.exit(main())"
    options = ["bench", "cross-entropy", *SMALL, "--without", "optax", "--no-memory", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while "logits.clone()" not in process.stdout.readline():  # the first contest is over
        pass
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped; kept" in said
    (path,) = tmp_path.iterdir()
    assert results.load(path)["contests"][0]["name"] == "forward-float32-256x1000"


def test_wrong_names_are_told_the_right_ones() -> None:
    question = questions.named("linear")
    with pytest.raises(OptionError, match="float32-64x32x1000"):
        Run(question, Settings(quick=True, only="no-such"))
    with pytest.raises(OptionError, match="naive is the baseline"):
        Run(question, Settings(quick=True, without=("naive",)))
    with pytest.raises(OptionError, match="xent-16MiB"):
        Run(question, Settings(quick=True, without=("nobody",)))
    with pytest.raises(OptionError, match="--with nobody"):
        Run(question, Settings(quick=True, only_with=("nobody",)))
    with pytest.raises(OptionError, match="cross-entropy, linear"):
        questions.named("speed")


def test_a_whole_name_is_one_case_and_a_part_all_that_contain_it() -> None:
    question, name = questions.named("linear"), "float32-2048x768x50257"
    assert [case.name for case in Run(question, Settings(only=name)).cases] == [name]
    assert [case.name for case in Run(question, Settings(only=name[:-1])).cases] == [name, f"{name}-half-ignored"]


def test_help_loads_no_torch() -> None:
    code = (
        "import sys; from xent.cli import main; main(['bench', 'linear', '--help']);"
        "sys.exit('torch' in sys.modules or 'xent.bench' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "xent bench linear --quick" in done.stdout


def test_results_of_another_machine_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    fresh = {"machine": {"cpu": "a", "versions": {"torch": "1"}}}
    first = results.begin(path, fresh, keep=True)
    for name in ("two", "one", "two"):
        results.add(first, {"name": name}, ["one", "two"])
    results.save(path, first)
    assert [contest["name"] for contest in results.begin(path, fresh, keep=True)["contests"]] == ["one", "two"]
    assert results.begin(path, fresh, keep=False)["contests"] == []
    other = {"machine": {"cpu": "a", "versions": {"torch": "1", "triton": "3"}}}
    with pytest.raises(DataError, match=r"2 contests that were measured with other versions \(triton\)"):
        results.begin(path, other, keep=True)
    assert results.begin(path, other, keep=False)["contests"] == []
    another = {"machine": {"cpu": "b", "versions": {"torch": "2", "triton": "3"}, "cores": 2}}
    with pytest.raises(DataError, match=r"with other cpu, versions \(torch, triton\), cores;"):
        results.begin(path, another, keep=True)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="schema"):
        results.load(path)


def test_the_page_is_made_from_the_results(run: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    parts = ("machine", "needs", "roofline", "times", "picture")
    empty = "text\n" + "".join(f"<!-- measured: cross-entropy-{part} -->\nold\n<!-- end -->\n" for part in parts)
    filled = page.fill(empty, [json.loads(run[0].stdout)])
    assert "old" not in filled
    assert "| F.cross_entropy |" in filled
    assert page.fill(filled, [json.loads(run[0].stdout)]) == filled
    assert "No results yet" in page.fill(empty, [])


def test_the_committed_pages_are_made_from_the_committed_results() -> None:
    root = Path(__file__).parents[2]
    measured = results.load_all(root / "benchmarks" / "results")
    for path in page.PAGES:
        text = (root / path).read_text(encoding="utf-8")
        assert page.fill(text, measured) == text, f"{path}: make performance"


def test_the_short_table_has_the_fastest_in_bold_and_says_who_was_stopped() -> None:
    contest = {
        "name": "float32-2048x768x50257",
        "title": "a head",
        "contestants": {
            "xent": {"median_ms": 3716.4, "extra_bytes": 211 << 20},
            "naive": {"median_ms": 4766.4},
            "chunked": {"single_ms": 162000.0, "note": "over the time limit"},
            "cce": {"note": "failed: OSError", "at_least_ms": 30000.0},
        },
    }
    labels = {"xent": "xent.linear_cross_entropy", "naive": "naive", "torch": "F.linear_cross_entropy",
              "chunked": "… chunked", "cce": "cce"}  # fmt: skip
    result = {"question": "linear", "contests": [contest], "labels": labels, "absent": {}}
    result["machine"] = {"cpu": "a CPU", "threads": 2}
    head, _, row = page.short_part(result).splitlines()
    assert head == "| a CPU, 2 threads | xent | naive | F.linear_cross_entropy … chunked | cce |"
    assert row == "| a head | **3.72 s**, 211 MiB | 4.77 s | 162 s | failed: OSError |"
    assert page.short_part({**result, "absent": {"cce": "not installed"}}) == ""
