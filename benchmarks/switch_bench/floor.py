"""What no restart can do without: fork, vLLM's engine on this model, a first token. Nothing else is started.

A program of its own, since only a process without threads may fork: `python -m benchmarks.switch_bench.floor WORDS`. It
has imported everything and frozen its heap, as our zygote has, and knows vLLM's configuration already. A line on its
standard input asks for a sample, a line of JSON on its standard output is one.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.report.result import PartError, last_words

if TYPE_CHECKING:  # it imports vLLM, which reads the environment that is prepared first
    from tandem_sidecars.vllm.recipes import Recipe

ROOT = Path(__file__).parents[2]
MODULE = "benchmarks.switch_bench.floor"
PROMPT = (3, 9, 27, 17, 51, 25)
STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Floor:
    """One start without anything of ours; times in seconds."""

    fork: float
    """From the fork to the child's first line."""
    engine: float
    """vLLM's engine, from its configuration to where it takes requests. Its weights are never loaded."""
    first_token: float
    """From asking the engine, in the same process, to the token."""


@dataclass(frozen=True, slots=True)
class FloorProgram:
    """The running program."""

    process: "subprocess.Popen[str]"
    log: Path

    def sample(self) -> Floor:
        """Have it make one start. PartError: it has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            return Floor(**json.loads(self.process.stdout.readline()))
        except (OSError, ValueError):
            words = last_words(self.log.read_text(errors="replace"))
            raise PartError(f"the bare vLLM engine has not started:\n{words}") from None


@contextmanager
def floor_program(words: Sequence[str], variables: Mapping[str, str], log: Path) -> Iterator[FloorProgram]:
    """Start the program for a server's command line; it ends with the context."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE, json.dumps(list(words))],
            cwd=ROOT,
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            start_new_session=True,
        )
    try:
        yield FloorProgram(process, log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it is not reaped yet, so the number is still its own
        process.communicate(timeout=STOP_SECONDS)


def main() -> None:
    """Serve samples until the other side ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever vLLM prints is no sample
    recipe = _prepare(json.loads(sys.argv[1]))
    for _ in sys.stdin:
        answers.write(json.dumps(asdict(_start(recipe))) + "\n")
        answers.flush()


def _prepare(words: Sequence[str]) -> "Recipe":
    """Import and work out all that does not depend on the weights, as the zygote does."""
    from tandem_sidecars.vllm.preparation import preload, prepare_environment

    prepare_environment("cpu")
    preload("cpu")
    from tandem_sidecars.vllm.recipes import Recipes

    recipe = Recipes().recipe_of(tuple(words))
    if recipe is None:
        raise SystemExit(f"vLLM does not take this command line: {' '.join(words)}")
    return recipe


def _start(recipe: "Recipe") -> Floor:
    """Fork, build the engine, sample a token; return how long each took."""
    reading, writing = os.pipe()
    began = perf_counter()
    pid = os.fork()
    if pid == 0:
        _become_sample(recipe, began, writing)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.readline()
    os.waitpid(pid, 0)
    return Floor(**json.loads(text))


def _become_sample(recipe: "Recipe", began: float, writing: int) -> None:
    """Build and sample in this fork, write the times, and end."""
    forked = perf_counter()
    try:
        built, sampled = asyncio.run(_build_and_sample(recipe))
        floor = Floor(forked - began, built - forked, sampled - built)
        os.write(writing, f"{json.dumps(asdict(floor))}\n".encode())
    except Exception:  # noqa: BLE001 - the top of this process: whatever it was is told in the log
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


async def _build_and_sample(recipe: "Recipe") -> tuple[float, float]:
    """Return when the engine stood and when it had sampled a token, by the clock of all processes."""
    from vllm import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

    from tandem_sidecars.vllm.recipes import USAGE

    os.environ.update(recipe.variables)
    engine = AsyncLLM.from_vllm_config(recipe.config, usage_context=USAGE)
    built = perf_counter()
    sampling = SamplingParams(max_tokens=1, temperature=0.0)
    async for _ in engine.generate({"prompt_token_ids": list(PROMPT)}, sampling, "floor"):
        pass
    sampled = perf_counter()
    engine.shutdown()
    return built, sampled


if __name__ == "__main__":
    main()
