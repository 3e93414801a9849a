"""The command line as a user meets it: help at once, one clear line for every mistake, the right exit status."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.recipes.test_digits import fingerprints, mnist_like
from xent.cli import main

QUICK = ["train", "digits", "--epochs", "2", "--hidden", "8"]
XENT = [sys.executable, "-c", "import sys; from xent.cli import main; sys.exit(main())"]


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


HEAVY = {"torch", "sklearn", "safetensors", "numpy", "scipy"}


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["train", "digits", "--help"], ["train", "digit"], ["explain", "--help"], ["explain"]],
    ids=str,
)
def test_no_answer_that_needs_no_torch_loads_it(arguments):
    code = f"import sys; from xent.cli import main; main({arguments!r}); print(*sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not HEAVY & {name.partition(".")[0] for name in result.stderr.split()}


def test_the_module_is_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "xent", "train", "digit"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("xent: error: there is no recipe 'digit'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["train", "Example:", "xent train digits"]),
        (["train", "--help"], ["digits", "Example:"]),
        (["train", "digits", "--help"], ["--resume", "--label-smoothing", "Examples:", "xent train digits --data DIR"]),
    ],
)
def test_help_has_an_example(capfd, arguments, words):
    assert main(arguments) == 0
    shown = capfd.readouterr().out
    assert [word for word in words if word not in shown] == []
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("command", [["explain"], ["score"], ["train", "digits"], ["bench", "linear"]], ids=str)
def test_a_paragraph_of_help_is_wrapped_once(capfd, monkeypatch, command):
    """No line ends where it does in the source: a line is short only where the next word has no room."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*command, "--help"]) == 0
    text = capfd.readouterr().out.partition("╭─")[0]
    paragraphs = [[line.strip() for line in one.splitlines()] for one in re.split(r"\n *\n", text)]
    for lines in paragraphs:
        for line, after in itertools.pairwise(lines):
            assert len(line) + 1 + len(after.split()[0]) > 78 if line and after else True, line


def test_version(capfd):
    import xent

    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"xent {xent.__version__}\n"


WRONG_USAGE = {
    "no recipe": (["train"], "no recipe given; the recipes are: digits, language_model, text, xor"),
    "unknown recipe": (
        ["train", "mnist"],
        "there is no recipe 'mnist'; the recipes are: digits, language_model, text, xor",
    ),
    "nearly a recipe": (["train", "digit"], "did you mean xent train digits?"),
    "unknown command": (["trai"], "Did you mean 'train'?"),
    "unknown option": (["train", "digits", "--rate", "1"], "--rate"),
    "no number": (["train", "digits", "--lr", "fast"], "--lr"),
    "negative lr": (["train", "digits", "--lr", "-1"], "lr is -1.0; it must be a positive number"),
    "no epochs": (["train", "digits", "--epochs", "0"], "epochs is 0; it must lie in [1, 1,000,000]"),
    "unknown optimizer": (["train", "digits", "--optimizer", "lion"], "--optimizer"),
    "missing data": (["train", "digits", "--data", "nowhere"], "nowhere, which does not exist"),
    "data without files": (["train", "digits", "--data", "."], "which holds no such file"),
    "data a file": (["train", "digits", "--data", "file"], "which is no directory"),
    "out taken": ([*QUICK, "--out", "taken"], "taken already exists and is not empty; a run never overwrites another"),
    "out a file": ([*QUICK, "--out", "file"], "file already exists"),
    "resume missing": (["train", "digits", "--resume", "nowhere"], "nowhere, which does not exist"),
    "resume a file": (["train", "digits", "--resume", "file"], "which is no directory"),
    "resume foreign": (["train", "digits", "--resume", "taken"], "which holds no config.json"),
    "resume and out": (["train", "digits", "--resume", "a", "--out", "b"], "leave --out out"),
}


@pytest.mark.parametrize(("arguments", "sentence"), WRONG_USAGE.values(), ids=WRONG_USAGE.keys())
def test_wrong_usage_is_one_line_and_exit_2(capfd, arguments, sentence):
    Path("file").touch()
    Path("taken").mkdir()
    Path("taken/notes").touch()
    before = sorted(Path().rglob("*"))
    assert main(arguments) == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("xent: error: ")
    assert shown.err.count("\n") == 1
    assert sentence in shown.err
    assert sorted(Path().rglob("*")) == before


def fails(capfd, arguments: list[str]) -> str:
    assert main(arguments) == 1
    error = capfd.readouterr().err
    assert error.startswith("xent: error: ")
    assert error.count("\n") == 1
    return error


def test_damaged_data_is_exit_1(capfd):
    mnist_like(Path("data"), "t10k", 50)
    images = Path("data/t10k-images-idx3-ubyte")
    images.write_bytes(images.read_bytes()[:-1])
    assert "is truncated" in fails(capfd, ["train", "digits", "--data", "data"])
    assert not Path("runs").exists()


def test_a_damaged_run_is_exit_1(capfd):
    assert main([*QUICK, "--out", "run"]) == 0
    capfd.readouterr()
    Path("run/checkpoint").write_bytes(b"")
    assert "run/checkpoint is damaged" in fails(capfd, ["train", "digits", "--resume", "run"])


def test_no_right_to_write_is_exit_1(capfd, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")  # root, whom tests may run as, is never refused

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert "runs/digits-1 can't be written (Permission denied)" in fails(capfd, QUICK)


def test_no_scikit_learn_is_exit_1(capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert "pip install 'xent[digits]', or pass --data" in fails(capfd, QUICK)


def test_a_run_as_plain_lines(capfd):
    assert main([*QUICK, "--out", "run"]) == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    assert "\x1b" not in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    for word in ("nats", "bits", "perplexity", "accuracy", "2.3026 = ln 10, guessing", "entropy of the label prior"):
        assert word in shown.out
    assert "xent train digits --resume run --epochs 4" in shown.out


def test_a_second_run_stands_beside_the_first():
    assert main(QUICK) == 0
    first = fingerprints(Path("runs/digits-1"))
    assert main([*QUICK, "--seed", "1"]) == 0
    assert fingerprints(Path("runs/digits-1")) == first
    assert sorted(path.name for path in Path("runs").iterdir()) == ["digits-1", "digits-2"]


def test_json_is_alone_on_stdout(capfd):
    assert main([*QUICK, "--out", "run", "--json"]) == 0
    shown = capfd.readouterr()
    summary = json.loads(shown.out)
    assert (summary["recipe"], summary["run"], summary["epoch"], summary["epochs_trained"]) == ("digits", "run", 2, 2)
    assert summary["validation"]["loss"] > 0
    assert summary["landmarks"]["guessing"] == pytest.approx(2.302585)
    assert "epoch" in shown.err


def test_a_finished_run_says_so(capfd):
    assert main([*QUICK, "--out", "run"]) == 0
    before = fingerprints(Path("run"))
    assert main(["train", "digits", "--resume", "run"]) == 0
    assert "finished   all 2 epochs were trained before" in capfd.readouterr().out
    assert fingerprints(Path("run")) == before


def test_an_ascii_terminal_is_no_reason_to_fail():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run([*XENT, "train", "mnist→"], capture_output=True, env=environment, timeout=60, check=False)
    assert result.returncode == 2
    assert b"there is no recipe" in result.stderr


def with_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs, tests among them, ignore Ctrl-C


def test_ctrl_c_leaves_a_run_to_go_on_with(capfd):
    arguments = [*XENT, "train", "digits", "--epochs", "100000", "--out", "run"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True, preexec_fn=with_interrupts)  # noqa: PLW1509
    try:
        deadline = time.monotonic() + 120
        while not (Path("run/metrics.jsonl").exists() and Path("run/metrics.jsonl").stat().st_size):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert error == "xent: stopped; go on with xent train digits --resume run\n"
    done = len(Path("run/metrics.jsonl").read_text().splitlines())
    assert main(["train", "digits", "--resume", "run", "--epochs", str(done + 1)]) == 0
    assert "resumed    after epoch " in capfd.readouterr().out


def test_ctrl_c_before_anything_was_begun():
    code = "import xent.cli.train as t, sys\nfrom xent.cli import main\ndef stop(*a, **k): raise KeyboardInterrupt\n"
    code += (
        "import xent.cli._training_command as c; c.TrainingCommand._open = stop; sys.exit(main(['train', 'digits']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (130, "xent: stopped; nothing was begun\n")


@pytest.mark.parametrize("command", [["train", "digits", "--epochs", "100000"], ["bench", "cross-entropy"]], ids=str)
def test_ctrl_c_at_any_moment_is_one_line(command):
    code = "import sys; from xent.cli import main; print('here', flush=True); sys.exit(main(sys.argv[1:]))"
    for milliseconds in range(0, 300, 60):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=with_interrupts,  # noqa: PLW1509
        )
        try:
            assert process.stdout
            assert process.stdout.readline() == "here\n"  # from here on the moment is xent's, not Python's start
            time.sleep(milliseconds / 1000)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
        assert (process.returncode, error.count("\n")) == (130, 1), f"after {milliseconds} ms: {error}"
        assert error.startswith("xent: stopped; ")


def test_ctrl_c_that_a_class_in_the_making_turns_into_another_error(capfd, monkeypatch):
    from xent.cli import _main

    def press(*arguments, **options):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interrupt:
            raise RuntimeError("Error calling __set_name__ on 'cached_property' instance") from interrupt

    monkeypatch.setattr(_main, "app", press)
    assert main(["--version"]) == 130
    assert capfd.readouterr().err == "xent: stopped; nothing was begun\n"


def test_ctrl_c_that_typer_makes_an_exit(capfd, monkeypatch):
    from xent.cli import _main

    def press(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(_main.typer, "echo", press)
    assert main(["--version"]) == 130
    assert capfd.readouterr().err == "xent: stopped; nothing was begun\n"


def test_a_narrow_terminal_is_no_reason_to_fail(monkeypatch):
    monkeypatch.setenv("COLUMNS", "10")
    assert main(["train", "digits", "--epochs", "1"]) == 0


def test_output_that_nobody_reads():
    process = subprocess.Popen([*XENT, *QUICK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.close()
    assert process.stderr
    with process.stderr:
        assert "Traceback" not in process.stderr.read()
    assert process.wait(timeout=60) == 1


@pytest.mark.parametrize(
    "command", [["train", "text"], ["train", "language_model"], ["score", "gpt2", "t.txt"]], ids=str
)
@pytest.mark.parametrize(
    ("environment", "got"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 and RANK is not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is two"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "x"}, "WORLD_SIZE is 2 and MASTER_PORT is x"),
    ],
)
def test_an_environment_that_torchrun_did_not_make(command, environment, got, monkeypatch, capsys):
    for name in ("RANK", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(command) == 2
    assert capsys.readouterr().err == (
        f"xent: error: {got}; processes that work together are started by torchrun: "
        "torchrun --nproc-per-node 2 --no-python xent …, or unset WORLD_SIZE\n"
    )
