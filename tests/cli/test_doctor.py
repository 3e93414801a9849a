"""`xent doctor SCRIPT` beside `python SCRIPT`: the same bytes on stdout, the same status; and its own report."""

from __future__ import annotations

import json
import py_compile
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

XENT = [sys.executable, "-c", "import sys; from xent.cli import main; sys.exit(main())", "doctor"]
MISTAKEN = """
import torch, torch.nn.functional as F
x = torch.randn(4, 3, requires_grad=True)
print(F.cross_entropy(x.softmax(1), torch.tensor([0, 1, 2, 0])) > 0)
"""
SAID = "error  softmax-before-cross-entropy · script.py:4"


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


def run(command, text=None, **options):
    return subprocess.run(command, capture_output=True, text=True, input=text, timeout=120, check=False, **options)


def both(script: str, *arguments: str, text: str | None = None):
    Path("script.py").write_text(script)
    return run([sys.executable, "script.py", *arguments], text), run([*XENT, "script.py", *arguments], text)


PROGRAMS = {
    "arguments and names": "import sys\nprint(sys.argv, __name__, __file__, __spec__, sys.path[0])\n"
    "print(sys.modules['__main__'].__dict__ is globals(), sorted(globals()))\nimport pickle\nclass A: pass\n"
    "print(type(pickle.loads(pickle.dumps(A()))) is A)\n",
    "an exception": "def f(): raise ValueError('x')\ntry:\n    f()\n"
    "except ValueError as e:\n    raise KeyError(1) from e\n",
    "a syntax error": "print(1)\nx = (\n",
    "a number": "import sys\nprint('a')\nsys.exit(7)\n",
    "a text": "import sys\nsys.exit('no data')\n",
    "nothing": "import sys\nsys.exit(None)\n",
    "a large number": "raise SystemExit(513)\n",
    "stdin": "import sys\nprint(sys.stdin.read().upper())\n",
    "at the end": "import atexit, threading, time\natexit.register(print, 'last')\n"
    "said = threading.Event()\n"
    "threading.Thread(target=lambda: (said.wait(), time.sleep(0.2), print('thread'))).start()\n"
    "print('main', flush=True)\nsaid.set()\n",
    "its own hook": "import sys\nsys.excepthook = lambda *a: print('hook', a[0].__name__)\n1 / 0\n",
    "bytes": "import sys\nsys.stdout.buffer.write(bytes(range(256)))\nprint('é\\u2192')\n",
    "an unencodable text": "import sys\nprint(sys.stdout.errors, sys.stderr.errors)\n",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_without_torch_runs_as_with_python(name):
    Path("script.py").write_text(PROGRAMS[name])
    command = ["script.py", "--foo", "-x", "a b"]
    plain = subprocess.run([sys.executable, *command], capture_output=True, input=b"words", timeout=60, check=False)
    examined = subprocess.run([*XENT, *command], capture_output=True, input=b"words", timeout=60, check=False)
    assert examined.stdout == plain.stdout
    assert examined.returncode == plain.returncode
    before, _, report = examined.stderr.partition(b"\nxent doctor ")
    assert before == plain.stderr
    assert b"did not import torch" in report


def test_findings_make_the_status_1_and_a_clean_program_0():
    plain, examined = both(MISTAKEN)
    assert examined.stdout == plain.stdout
    assert examined.returncode == 1
    assert SAID in examined.stderr
    assert max(map(len, examined.stderr.splitlines())) <= 80
    plain, examined = both(MISTAKEN.replace(".softmax(1)", ""))
    assert (examined.stdout, examined.returncode) == (plain.stdout, 0)
    assert "nothing found" in examined.stderr


def test_the_traceback_is_pythons_and_the_report_says_why():
    called = "torch.nn.CrossEntropyLoss()(torch.zeros(2, 3), y)"
    script = f"import torch\ndef f(y):\n    return {called}\nf(torch.tensor([0, 3]))\n"
    plain, examined = both(script)
    assert examined.returncode == plain.returncode == 1
    before, _, report = examined.stderr.partition("\nxent doctor ")
    assert before == plain.stderr
    assert "torch  IndexError: Target 3 is out of bounds." in report
    assert "script.py:3" in report


def test_json():
    Path("script.py").write_text(MISTAKEN)
    result = run([*XENT, "--json", "report.json", "--mute", "stale-gradients", "script.py"])
    assert result.returncode == 1
    report = json.loads(Path("report.json").read_text())
    assert set(report) == {"checked", "unchecked", "findings"}
    assert set(report["findings"][0]) == {
        "rule", "severity", "certainty", "message", "fix", "file", "line", "count", "values"
    }  # fmt: skip
    assert (report["findings"][0]["file"], report["findings"][0]["line"]) == (str(Path("script.py").resolve()), 4)
    assert "stale-gradients" not in report["checked"] + [each["rule"] for each in report["unchecked"]]


def test_a_module():
    Path("package").mkdir()
    Path("package/__init__.py").write_text("")
    Path("package/train.py").write_text("import sys\nprint(sys.argv, __name__, __package__)\n" + MISTAKEN)
    plain = run([sys.executable, "-m", "package.train", "--json", "x"])
    examined = run([*XENT, "-m", "package.train", "--json", "x"])
    assert examined.stdout == plain.stdout
    assert examined.returncode == 1
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no program"),
        (["nix.py"], "no file nix.py"),
        (["notebook.ipynb"], "is a notebook"),
        (["--mute", "softmax", "script.py"], "rule 'softmax'"),
        (["--json", "none/r.json", "script.py"], "its folder must be there"),
        (["--wrong", "script.py"], "--wrong"),
    ],
)
def test_wrong_usage_runs_nothing(arguments, words):
    Path("script.py").write_text("print('ran')\n")
    Path("notebook.ipynb").write_text("{}")
    result = run([*XENT, *arguments])
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_program_is_reported_and_ends_by_the_signal(number):
    Path("script.py").write_text(MISTAKEN + "import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen([*XENT, "script.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "ready\n" in iter(process.stdout.readline, "")
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == -number
    assert SAID in said
    assert ("KeyboardInterrupt" in said) == (number == signal.SIGINT)


ENDED_WHILE_IT_WRITES = """
import io, os, signal, sys, time
class Raw(io.RawIOBase):
    def writable(self):
        return True
    def fileno(self):
        return 2
    def write(self, written):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
sys.{name} = {other}io.TextIOWrapper(io.BufferedWriter(Raw()))
print("x", file=sys.{name}, flush=True)
"""


@pytest.mark.parametrize(("name", "other"), [("stdout", ""), ("stderr", "sys.__stderr__ = ")])
def test_a_program_that_is_ended_while_it_writes_is_reported(name, other):
    Path("script.py").write_text(MISTAKEN + ENDED_WHILE_IT_WRITES.format(name=name, other=other))
    result = run([*XENT, "script.py"])
    assert result.returncode == -signal.SIGTERM
    assert SAID in result.stderr


def test_spawned_processes_find_their_functions():
    script = (
        "import multiprocessing as mp\ndef f(n): return n * n\n"
        "if __name__ == '__main__':\n    with mp.get_context('spawn').Pool(2) as pool: print(pool.map(f, [1, 2, 3]))\n"
    )
    plain, examined = both(script)
    assert examined.stdout == plain.stdout == "[1, 4, 9]\n"


def test_a_forked_child_reports_nothing():
    script = MISTAKEN + "import os, sys\npid = os.fork()\nif pid == 0: sys.exit(3)\nprint(os.waitpid(pid, 0)[1] >> 8)\n"
    _, examined = both(script)
    assert examined.stdout.endswith("3\n")
    assert examined.stderr.count("xent doctor ·") == 1


def test_an_ascii_terminal(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    plain, examined = both("import sys\nprint('é', file=sys.stderr)\n")
    assert examined.stderr == plain.stderr + "\nxent doctor - nothing was checked: the program did not import torch\n"


def test_a_folder_with_a_main():
    """It changes its working directory before it imports what lies beside it."""
    Path("app").mkdir()
    Path("app/beside.py").write_text("HERE = 1\n")
    Path("app/__main__.py").write_text("import os, sys\nos.chdir('/')\nimport beside\nprint(sys.path[0], sys.argv)\n")
    plain, examined = (run([*command, "app", "-x"]) for command in ([sys.executable], XENT))
    assert (examined.stdout, examined.returncode) == (plain.stdout, 0)


def test_a_compiled_program():
    Path("script.py").write_text("print(__name__, __file__)\n")
    py_compile.compile("script.py", "script.pyc")
    plain, examined = (run([*command, "script.pyc"]) for command in ([sys.executable], XENT))
    assert (examined.stdout, examined.returncode) == (plain.stdout, 0)


def test_variables_set_before_torch_is_imported_count(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    _, examined = both("import os\nos.environ['OMP_NUM_THREADS'] = '1'\nimport torch\nprint(torch.get_num_threads())\n")
    assert examined.stdout == "1\n"


def test_nobody_reads_the_report():
    Path("script.py").write_text(MISTAKEN)
    shell = f"{sys.executable} -c 'from xent.cli import main; raise SystemExit(main())' doctor script.py 2>&-; echo $?"
    assert subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=True
    ).stdout.endswith("1\n")


def test_rules_are_listed_and_explained(capfd):
    from xent.cli import main

    assert main(["doctor", "--list"]) == 0
    assert "softmax-before-cross-entropy" in capfd.readouterr().out
    assert main(["doctor", "--explain", "stale-gradients"]) == 0
    assert "zero_grad" in capfd.readouterr().out
    assert main(["doctor", "--env"]) == 0
    assert "torch" in capfd.readouterr().out
    assert main(["doctor", "--explain", "softmax"]) == 2


def test_the_environment_says_which_kernels_run(capfd, monkeypatch):
    from xent.backends import native
    from xent.cli import main

    if native.availability() is not None:
        pytest.skip("a pure installation")

    def lines() -> list[str]:
        assert main(["doctor", "--env"]) == 0
        return capfd.readouterr().out.splitlines()

    def line() -> str:
        return next(line for line in lines() if line.startswith("kernels"))

    monkeypatch.delenv("XENT_ISA", raising=False)
    assert re.fullmatch(
        r"kernels    (\w+), the widest of scalar(, \w+)*, \1|kernels    scalar, the widest of scalar", line()
    )
    monkeypatch.setenv("XENT_ISA", "scalar")
    assert line().startswith("kernels    scalar, forced by XENT_ISA, one of scalar")
    monkeypatch.setenv("XENT_ISA", "avx1024")
    assert line().startswith("kernels    none: XENT_ISA is 'avx1024'; this machine and build run scalar")
    raises, why = lines()[-2:]  # what the call does: it falls back in silence no more than any other
    assert raises == "cross_entropy: none, it raises BackendError"
    assert why.startswith("  XENT_ISA is 'avx1024'")
    monkeypatch.setattr(native, "availability", lambda: "the compiled kernels can't be loaded (gone): reinstall xent")
    assert line() == "kernels    none: the compiled kernels can't be loaded (gone): reinstall xent"
