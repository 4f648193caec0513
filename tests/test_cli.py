"""The command line as its users meet it: what it prints, where, and with which exit code."""

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import resurge
from resurge import Paper, ResurgeError, recipes
from resurge.cli import commands, main
from resurge.cli.command import json_line
from resurge.cli.parsing import parse
from resurge.recipes import Check, to_dict, verify

TINY = ["--epochs", "1", "--d-model", "8", "--depth", "1", "--d-state", "8"]


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["fit", "lru/digits", *TINY, "--out", str(path)]) == 0
    return path


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which `words` are refused, on stderr, with exit code 2."""
    capsys.readouterr()
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("resurge: error: ")
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("resurge: error: ")


def last_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return value


def interruptible(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """A process that Ctrl-C reaches, also where this one was started in the background and ignores it."""
    heed = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    return subprocess.Popen([sys.executable, "-c", heed, *command], **options)


def resurge_command(*words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "resurge", *words], capture_output=True, check=False, **options)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_lists_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in commands())
    assert "Examples:" in shown


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_help_has_examples_that_parse(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"usage: resurge {name}" in shown
    import shlex

    for example in commands()[name].EXAMPLES:
        assert example in shown
        words = shlex.split(example.split("|")[-1].split(" < ")[0].split(" > ")[0])
        assert words[:2] == ["resurge", name]
        if "series" not in example or "lru/series" in recipes.names():
            commands()[name].parse(words[2:])


@pytest.mark.parametrize("recipe", recipes.names())
def test_every_recipe_can_be_parsed_and_is_itself_without_options(recipe: str) -> None:
    parsed = commands()["fit"].parse([recipe])
    assert to_dict(parsed.experiment) == to_dict(recipes.get(recipe))
    assert parsed.recipe == recipe


def test_settings_reach_their_places() -> None:
    words = [
        "lru/digits",
        "--lr",
        "3e-3",
        "--d_model",
        "96",
        "--depth=3",
        "--r-max",
        "0.9",
        "--no-prenorm",
        "--seed",
        "4",
    ]
    experiment = commands()["fit"].parse(words).experiment
    assert (experiment.train.lr, experiment.model.d_model, experiment.model.depth) == (3e-3, 96, 3)
    assert (experiment.model.layer.r_max, experiment.model.prenorm, experiment.seed) == (0.9, False, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fti"], "unknown command 'fti'. Did you mean 'fit'?"),
        (["fit"], "fit needs a recipe as its first word. Known: lru/digits"),
        (["fit", "--lr", "3"], "fit needs a recipe as its first word"),
        (["fit", "lru/digit"], "unknown recipe 'lru/digit'. Did you mean 'lru/digits'?"),
        (["fit", "lru/digits", "--dmodel", "3"], "unknown option '--dmodel'. Did you mean '--d-model'?"),
        (["fit", "lru/digits", "--qqq=3"], "unknown option '--qqq'. --help lists them all."),
        (["fit", "lru/digits", "--lr", "fast"], "--lr: a number expected, 'fast' given"),
        (["fit", "lru/digits", "--depth", "1.5"], "--depth: an integer expected, '1.5' given"),
        (["fit", "lru/digits", "--depth"], "--depth: a value expected after it"),
        (["fit", "lru/digits", "extra"], "'extra' is one argument too many"),
        (["fit", "lru/digits", "--depth", "0"], "depth must be at least 1, and is 0"),
        (["fit", "lru/digits", "--d-state", "-1"], "d_state must be at least 1, and is -1"),
        (["fit", "lru/digits", "--batch-size", "0"], "batch_size must be at least 1, and is 0"),
        (["fit", "lru/digits", "--weight-decay", "-1"], "weight_decay must be at least 0, and is -1.0"),
        (["fit", "lru/digits", "--seed", "9" * 30], "seed must lie between 0 and 4294967295"),
        (["fit", "lru/digits", "--seed", "-1"], "seed must lie between 0 and"),
        (["fit", "griffin/text", "--dropout", "1"], "dropout must lie in [0, 1), and is 1.0"),
        (["verify", "lru", "--quick", "--device", "banana"], "unknown device 'banana'"),
        (["verify", "lru", "--quick", "--seed", "-1"], "seed must lie between 0 and"),
        (["fit", "lru/digits", "--r-min", "2"], "r_min and r_max must satisfy"),
        (["fit", "lru/digits", "--norm", "bach"], "unknown norm 'bach'. Did you mean 'batch'?"),
        (["fit", "lru/digits", "--device", "gpu7"], "device"),
        (["evaluate"], "RUN is needed, and was not given"),
        (["evaluate", "nothing"], "nothing is not a run: it has no config.json"),
        (["evaluate", "nothing", "--split", "tset"], "--split: one of 'train', 'val', 'test' expected, 'tset' given"),
        (["generate", "nothing"], "--prompt is needed, and was not given"),
        (["generate", "nothing", "--prompt", "x", "--length", "0", "--json"], "--json prints at the end"),
        (["predict", "nothing", "x.csv"], "nothing is not a run"),
        (["verify", "lur"], "unknown system 'lur'. Did you mean 'lru'?"),
        (["data", "show"], "data show needs a name; known: digits"),
        (["data", "show", "digit"], "unknown task 'digit'. Did you mean 'digits'?"),
        (["data", "lits"], "one of 'list', 'get', 'show' expected, 'lits' given"),
        (["completion", "bosh"], "'bosh' given"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert message in refused(words, capsys)
    assert not (tmp_path / "runs").exists()


def test_a_run_from_fit_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "lru/digits", *TINY, "--seed", "7", "--json"]) == 0
    fitted = last_json(capsys)
    run = "runs/lru-digits-7"
    assert fitted["run"] == run
    assert "use --resume to continue it" in refused(["fit", "lru/digits", *TINY, "--seed", "7"], capsys)
    assert main(["fit", "lru/digits", *TINY, "--seed", "7", "--resume", "--json"]) == 0
    assert last_json(capsys) == fitted
    assert main(["evaluate", run, "--json"]) == 0
    measured = last_json(capsys)
    assert measured["accuracy"] == pytest.approx(fitted["accuracy"], abs=1e-6)
    assert main(["evaluate", run, "--split", "val"]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main(["report", run]) == 0
    assert f"{run}/report.html" in capsys.readouterr().out
    assert (tmp_path / run / "report.html").read_text().startswith("<!doctype html>")
    assert main(["report", run, "--out", "page.html", "--json"]) == 0
    assert last_json(capsys) == {"report": "page.html"}


def test_predict_answers_a_stream_line_by_line(digits: Path) -> None:
    series = b"\n".join(b"%d" % (step % 16) for step in range(64)) + b"\n\n"
    done = resurge_command("predict", str(digits), input=series * 2)
    answers = done.stdout.decode().splitlines()
    assert done.returncode == 0, done.stderr
    assert len(answers) == 128
    assert answers[:64] == answers[64:]
    assert all(0 <= float(line.split("\t")[1]) <= 1 for line in answers)
    Path("values.txt").write_bytes(series + b"1\n1 2\n")
    done = resurge_command("predict", str(digits), "values.txt", "--stream", "--json")
    assert done.returncode == 2
    assert done.stderr.decode() == "resurge: error: line 67: 1 numbers are expected, and there are 2\n"
    assert [json.loads(line)["class"] for line in done.stdout.splitlines()][63] == answers[63].split("\t")[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"id,x\n1,2\0\n", "NUL at byte"),
        ("a.csv", b"id,x\n1,caf\xe9\n", "is not UTF-8"),
        ("a.csv", b"id,x\n1,2\n1,2,3\n", "line 3 has 3 cells"),
        ("a.csv", b"id,x\n1,2\n1,two\n", "line 3, column 'x': 'two' is not a number"),
        ("a.csv", b"id,x\n1,2\n1,nan\n", "line 3, column 'x': nan is not a finite number"),
        ("a.csv", b"id,x,y\n1,2,3\n", "has 2 channels, and the model takes 1"),
        ("a.npz", pickle.dumps({"x": 1}), "is no .npz file"),
        ("a.pkl", pickle.dumps({"x": 1}), "file is expected"),
    ],
)
def test_bad_files_to_predict_are_refused(
    name: str, content: bytes, message: str, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert message in refused(["predict", str(digits), name], capsys)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda old: old[: len(old) // 2], "truncated"),
        (lambda old: b"", "it is empty"),
        (lambda old: pickle.dumps(list(range(100))), "it is a pickle, which is never read"),
        (lambda old: old.replace(b"nu_log", b"nu_lag"), "another architecture"),
    ],
)
def test_damaged_weights_are_refused(
    weights: Any, message: str, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(digits, tmp_path / "bad")
    file = tmp_path / "bad" / "model.safetensors"
    file.write_bytes(weights(file.read_bytes()))
    for words in (["evaluate", "bad"], ["report", "bad"], ["predict", "bad", "x.csv"]):
        assert message in refused(words, capsys)


def test_a_classifier_does_not_generate(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no language model" in refused(["generate", str(digits), "--prompt", "x"], capsys)


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from resurge.data import Text
    from resurge.layers import options_type
    from resurge.recipes import Experiment, ModelConfig, TrainConfig
    from resurge.training import fit

    folder = tmp_path_factory.mktemp("text")
    (folder / "a.txt").write_text("naïve café, über alles\n" * 500)
    experiment = Experiment(
        Text(path=str(folder / "a.txt"), length=32),
        ModelConfig(options_type("lru")(d_state=8), d_model=16, depth=1, norm="layer"),
        TrainConfig(lr=1e-2, epochs=1),
    )
    fit("lru/text", experiment, folder / "run", progress=False)
    return folder / "run"


def test_generate_continues_and_repeats_by_seed(text_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", str(text_run), "--prompt", "caf", "--length", "40", "--seed", "3"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert last_json(capsys)["text"] + "\n" == text
    assert "at least one token" in refused(["generate", str(text_run), "--prompt", ""], capsys)
    assert "0 or more" in refused([*words, "--temperature", "-1"], capsys)


def test_generate_ends_with_its_reader_or_on_ctrl_c(text_run: Path) -> None:
    command = [sys.executable, "-m", "resurge", "generate", str(text_run), "--prompt", "a", "--length", "0"]
    for stop, code in ((None, 141), (signal.SIGINT, 130)):
        with interruptible(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert len(process.stdout.read(50)) == 50  # it streams
            if stop is None:
                process.stdout.close()
            else:
                process.send_signal(stop)
            assert process.wait(20) == code
            assert process.stderr.read().strip() == b""


def test_predict_reads_text_as_it_comes(text_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "resurge", "predict", str(text_run), "--json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in ("naïve café\n", "über alles\n"):
            process.stdin.write(line.encode())
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())  # before the next line is sent
        process.stdin.close()
        assert process.wait(20) == 0
    Path("a.txt").write_text("naïve café\nüber alles\n")
    assert main(["predict", str(text_run), "a.txt", "--json"]) == 0
    assert last_json(capsys)["bits_per_byte"] == pytest.approx(answer["bits_per_byte"], rel=1e-5)


def test_fit_stops_on_ctrl_c_and_goes_on(tmp_path: Path) -> None:
    words = ["fit", "lru/digits", "--d-model", "8", "--epochs", "400", "--out", "run"]
    command = [sys.executable, "-m", "resurge", *words]
    with interruptible(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the first validation
        process.send_signal(signal.SIGINT)
        told = process.stderr.read().decode()
        assert process.wait(60) == 130
    assert "--resume" in told.splitlines()[-1]
    assert "Traceback" not in told
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_a_full_disk_is_told_in_one_line(
    digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in digits.iterdir())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    message = refused(["report", str(digits)], capsys)
    assert "report.html: No space left on device" in message
    assert sorted(path.name for path in digits.iterdir()) == before


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on device; free some"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "permission denied: x"),
        (MemoryError(), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 1 TB\nmore"), "out of memory"),
        (ResurgeError("two\nlines"), "two lines"),
        (ModuleNotFoundError("no", name="lightning"), "pip install 'resurge[train]'"),
    ],
)
def test_what_goes_wrong_on_the_way_is_one_line_too(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Any) -> int:
        raise error

    monkeypatch.setattr(commands()["info"], "run", fail)
    assert message in refused(["info"], capsys)


@pytest.mark.parametrize("error", [RuntimeError("a mistake of ours"), ModuleNotFoundError("x", name="resurge.x")])
def test_our_own_mistakes_keep_their_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> int:
        raise error

    monkeypatch.setattr(commands()["info"], "run", fail)
    with pytest.raises(type(error)):
        main(["info"])


def test_light_commands_load_nothing_heavy() -> None:
    check = (
        "import sys; from resurge.cli import main\n"
        "for words in (['--help'], ['info'], ['systems'], ['data'], ['fit', '--help']): assert main(words) == 0\n"
        "heavy = {'lightning', 'matplotlib', 'sklearn', 'pyarrow', 'tensorboard'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_info_and_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    info = last_json(capsys)
    assert info["resurge"] == resurge.__version__
    assert {backend["name"] for backend in info["backends"]} >= {"numba", "torch"}
    assert main(["info"]) == 0
    assert "numba" in capsys.readouterr().out
    assert main(["data", "--json"]) == 0
    assert "digits" in {row["name"] for row in last_json(capsys)["data"]}
    assert main(["data", "list"]) == 0
    assert "listops" in capsys.readouterr().out
    assert main(["data", "get", "digits", "--json"]) == 0
    assert last_json(capsys) == {"name": "digits", "ready": True}
    assert main(["data", "show", "digits", "--json"]) == 0
    shown = last_json(capsys)
    assert shown["train"] + shown["val"] + shown["test"] == 1797
    assert main(["--version"]) == 0
    assert resurge.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_recipes_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("evaluate", "lru/digits", "d-model", "top-k"):
        assert word in script
    if shutil.which(shell):
        Path("script").write_text(script)
        subprocess.run([shell, "-n", "script"], check=True)


@dataclass
class Config:
    steps: int
    seed: int = 0
    device: str = "cpu"


def system(holds: bool) -> Any:
    """A published system that takes no time."""

    def run(config: Config) -> dict[str, float]:
        return {"steps": config.steps, "seed": config.seed, "nothing": float("nan")}

    return SimpleNamespace(
        PAPER=Paper("toy", "A toy", "Nobody", 2026),
        CLAIM="A toy runs.",
        EXPERIMENTS={},
        config=lambda quick: Config(1 if quick else 10),
        run=run,
        check=lambda numbers: Check(holds, numbers["steps"], 1.0, 5.0, "none"),
    )


@pytest.fixture
def _toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recipes, "systems", lambda: [system(holds=True)])
    monkeypatch.setattr(verify, "_SHIPPED", tmp_path / "shipped")


@pytest.mark.usefixtures("_toy")
def test_verify_runs_a_claim_and_systems_remember(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["systems"]) == 0
    assert "verified  never" in capsys.readouterr().out
    assert main(["verify", "toy", "--quick"]) == 0
    assert last_json(capsys)["quick"] is True
    assert verify.last("toy") is None  # a quick run shows nothing
    assert main(["verify", "toy", "--seed", "3"]) == 0
    figures = last_json(capsys)
    assert figures["holds"] is True
    assert figures["numbers"] == {"steps": 10.0, "seed": 3.0, "nothing": None}
    assert {"date", "machine", "minutes", "commit", "version"} <= figures.keys()
    assert main(["systems", "--json"]) == 0
    (listed,) = last_json(capsys)["systems"]
    assert (listed["slug"], listed["verified"]["seed"]) == ("toy", 3)
    assert main(["systems"]) == 0
    assert "holds: 10 (threshold 5, baseline 1)" in capsys.readouterr().out


@pytest.mark.usefixtures("_toy")
def test_a_claim_that_does_not_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(recipes, "systems", lambda: [system(holds=False)])
    assert main(["verify", "toy"]) == 1
    captured = capsys.readouterr().out
    assert "does NOT hold" in captured
    assert json.loads(captured.splitlines()[-1])["holds"] is False


@pytest.mark.usefixtures("_toy")
def test_a_result_is_shipped_when_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "toy", "--record"]) == 0
    shutil.rmtree(tmp_path / "cache")
    kept = verify.last("toy")
    assert kept is not None
    assert kept.numbers["steps"] == 10
    (tmp_path / "shipped" / "toy.json").write_text("{")
    assert verify.last("toy") is None
    assert "a quick run is not recorded" in refused(["verify", "toy", "--quick", "--record"], capsys)


@pytest.mark.usefixtures("_toy")
def test_what_a_system_lacks_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    toy = system(holds=True)
    monkeypatch.setattr(recipes, "systems", lambda: [toy])
    toy.config = lambda quick: Check(True, 0.0, 0.0, 0.0, "")
    assert "system 'toy' has no option 'seed'" in refused(["verify", "toy", "--seed", "1"], capsys)
    del toy.run
    assert "no claim that can be run" in refused(["verify", "toy"], capsys)


def test_json_of_an_argument_that_is_no_utf8_can_be_written() -> None:
    line = json_line({"prompt": "\udcff", "text": "é"})
    assert line.encode() == '{"prompt": "\\udcff", "text": "é"}'.encode()
    assert json.loads(line)["prompt"] == "\udcff"


def test_json_has_no_numbers_that_json_lacks() -> None:
    line = json_line({"a": float("inf"), "b": [float("nan"), 1.5], "c": {"d": -float("inf")}, "e": "é"})
    assert line == '{"a": null, "b": [null, 1.5], "c": {"d": null}, "e": "é"}'


def test_options_of_any_dataclass_are_parsed() -> None:
    assert parse(Config, ["--steps", "3"], "x") == Config(3)
    with pytest.raises(ResurgeError, match="--steps is needed"):
        parse(Config, [], "x")


def test_the_module_runs_as_a_command() -> None:
    start = time.perf_counter()
    done = resurge_command("--version")
    assert done.stdout.decode().strip() == f"resurge {resurge.__version__}"
    assert time.perf_counter() - start < 30
