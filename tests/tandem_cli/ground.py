"""A small job on a piece of the file system, the `tandem` command run on it, and a look at what it leaves behind."""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy
import psutil
import pytest
import yaml
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from tandem_checkpoint.architectures import ARCHITECTURES, architecture_of
from tandem_checkpoint.architectures.config import PolicyConfig, read_policy_config
from tandem_cli.__main__ import main
from tandem_cli.local.run_folder import MARKER
from tandem_cli.session import memory_folder
from tests.tandem_checkpoint.policies import write_config

TANDEM = Path(sys.executable).with_name("tandem")
COMMAND_SECONDS = 120
WAIT_SECONDS = 60.0
USER, MACHINE = 2, 1
"""Exit codes: something to correct, and a machine that lacks something."""
NAME = "reverse"
VOCABULARY = {"[UNK]": 0, "=": 1, **{str(digit): digit + 2 for digit in range(10)}}
PROBLEMS = ('{"prompt": "12=", "answer": "21"}', '{"prompt": "4821=", "answer": "1284"}')
"""Prompts of 3 and of 5 tokens: one character, one token."""


def write_policy(folder: Path, **changes: object) -> Path:
    """Write a policy folder as `tandem` checks it: sizes, tokenizer, tensors of the right shapes (of zeros)."""
    write_config(folder, **{"head_dim": 32, "vocab_size": len(VOCABULARY), **changes})
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file(zeros_of(read_policy_config(folder)), folder / "model.safetensors", {"format": "pt"})
    return folder


def zeros_of(config: PolicyConfig) -> dict[str, NDArray[numpy.float32]]:
    """Return every tensor that the family of a policy has; none for a family that is not known."""
    known = config.architecture in ARCHITECTURES
    rules = architecture_of(config.architecture).rules(config) if known else ()
    return {name: numpy.zeros(shape, numpy.float32) for rule in rules for name, shape in rule.tensors(config)}


def document(**spec: Any) -> dict[str, Any]:
    """Return a job for a CPU with sections of its spec replaced; its paths are relative to its file."""
    return {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "RLJob",
        "metadata": {"name": NAME},
        "spec": {
            "policy": {"model": {"path": "policy"}, "dtype": "Float32", "maxLengthTokens": 32},
            "data": {"train": [{"name": "digits", "path": "data.jsonl"}]},
            "rewards": [{"name": "exact", "builtin": "ExactMatch"}],
            "hybrid": {"gpusPerPod": 1, "gpu": {"sharing": "None"}},
            "recipe": {"iterations": 2, "problemsPerIteration": 2},
            **spec,
        },
    }


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    code: int
    output: tuple[str, ...] = ()
    """Lines on the standard output."""
    errors: tuple[str, ...] = ()
    """Lines on the standard error output."""


def refused(code: int, *errors: str) -> Outcome:
    """Return the end of a command that said these lines on its standard error output and nothing else."""
    return Outcome(code, errors=errors)


@dataclass(slots=True)
class Ground:
    """A folder with a small policy, its data and a job; `run` is the job's run folder."""

    folder: Path
    _before: Mapping[str, bytes | None] = field(default_factory=dict)
    """What `remember` has seen: content by path, None for a folder."""

    @property
    def job(self) -> Path:
        return self.folder / "job.yaml"

    @property
    def policy(self) -> Path:
        return self.folder / "policy"

    @property
    def data(self) -> Path:
        return self.folder / "data.jsonl"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    def lay_out(self) -> None:
        """Write everything that a job needs."""
        self.folder.mkdir(exist_ok=True)
        self.temporary.mkdir()
        write_policy(self.policy)
        self.data.write_text("\n".join(PROBLEMS) + "\n")
        self.write_job()

    def write_job(self, **spec: Any) -> None:
        """Write the job anew, with sections of its spec replaced."""
        self.job.write_text(yaml.safe_dump(document(**spec)))

    def hold(self, history: str, owner: str = NAME) -> None:
        """Make the run folder hold a run with this `metrics.jsonl`."""
        self.run.mkdir()
        (self.run / MARKER).write_text(json.dumps({"job": owner, "pid": 1}))
        (self.run / "metrics.jsonl").write_text(history)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Use the run folder as another `tandem up` does, while the context is open."""
        self.run.mkdir()
        with (self.run / MARKER).open("w") as marker:
            fcntl.flock(marker, fcntl.LOCK_EX)
            yield

    def up(
        self, *options: str | Path, before: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> Outcome:
        """Run `tandem up` on the job in a process of its own; `before`: words in front of the command."""
        words = ["up", "-f", str(self.job), "--run-dir", str(self.run), *map(str, options)]
        return self.execute(*before, str(TANDEM), *words, environment=environment)

    def execute(self, *argv: str, environment: Mapping[str, str] | None = None) -> Outcome:
        """Run a program in the folder, in a process of its own, with a temporary folder of its own."""
        self.remember()
        done = subprocess.run(
            argv,
            cwd=self.folder,
            env={**os.environ, "TMPDIR": str(self.temporary), **(environment or {})},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        return Outcome(done.returncode, tuple(done.stdout.splitlines()), tuple(done.stderr.splitlines()))

    def remember(self) -> None:
        """Take what there is now for what was there before a command."""
        self._before = self._files()

    def remains(self) -> list[str]:
        """Return what the last command has left: files that are new, changed or gone, processes, shared memory.

        The marker of the run folder may stay: it is empty or names the run.
        """
        marker = str(self.run / MARKER)
        after = self._files()
        paths = {*self._before, *after} - {marker}
        changed = [path for path in paths if self._before.get(path, b"absent") != after.get(path, b"absent")]
        memory = memory_folder(Path("/dev/shm"), self.run)
        return [*changed, *_processes_of(self.folder), *([str(memory)] if memory.exists() else [])]

    def _files(self) -> dict[str, bytes | None]:
        return {str(path): _content(path) for path in self.folder.rglob("*") if path != self.run}


class Here:
    """The command's own `main`, run in the test's process: faster than a process of its own."""

    def __init__(self, ground: Ground, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._ground, self._monkeypatch, self._capsys = ground, monkeypatch, capsys

    def up(self, *options: str | Path) -> Outcome:
        """Run `tandem up` on the job."""
        ground = self._ground
        return self.tandem("up", "-f", ground.job, "--run-dir", ground.run, *options)

    def tandem(self, *words: str | Path) -> Outcome:
        """Run the command with these words."""
        ground = self._ground
        self._monkeypatch.chdir(ground.folder)
        self._monkeypatch.setattr(tempfile, "tempdir", str(ground.temporary))
        self._monkeypatch.setattr(sys, "argv", ["tandem", *map(str, words)])
        ground.remember()
        with pytest.raises(SystemExit) as end:
            main()
        told = self._capsys.readouterr()
        return Outcome(int(end.value.code or 0), tuple(told.out.splitlines()), tuple(told.err.splitlines()))


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds; fail with its name after a while."""
    deadline = monotonic() + WAIT_SECONDS
    while not holds():
        assert monotonic() < deadline, f"never: {what}"
        sleep(0.02)


def is_gone(pid: int) -> bool:
    """Return whether a process has ended: one that nobody has collected yet counts as ended."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _processes_of(folder: Path) -> list[str]:
    """Return the processes, this one aside, that work in a folder or name it on their command line."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = [process.cwd(), *process.cmdline()]
            if process.pid != os.getpid() and any(str(folder) in word for word in words):
                found.append(" ".join(words))
    return found
