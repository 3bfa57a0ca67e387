"""A plain vLLM server: started as a user would start it, from the policy's folder."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter

from benchmarks.report.result import PartError, last_words
from benchmarks.switch_bench.first_token import client_of
from tests.tandem_checkpoint.etcd_process import free_address

from tandem_sidecars.vllm.preparation import CPU_ENVIRONMENT

OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
UNBOUND = {**OFFLINE, "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""For a server of several workers: vLLM would bind each to processors of its own, and keeps one for itself."""
TUNED: Mapping[str, str] = {
    **OFFLINE,
    **CPU_ENVIRONMENT,
    "VLLM_LOGGING_LEVEL": "WARNING",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "TOKENIZERS_PARALLELISM": "false",
    "GLOO_SOCKET_IFNAME": "lo",
}
"""What our own servers get: no compilation, one thread, one process less."""
OURS_ALONE = ("--load-format", "--middleware", "--weight-transfer-config", "--worker-extension-cls", "--host")
"""Words of our command line that a plain server does without, each with a value."""
STOP_SECONDS = 20.0


def plain_words(words: Sequence[str], address: str) -> tuple[str, ...]:
    """Return the same command line without what makes a server ours, listening on another address."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in OURS_ALONE:
            next(rest)
        else:
            kept.append(word)
    return (*kept, "--host", address)


async def plain_start(words: Sequence[str], variables: Mapping[str, str], log: Path) -> float:
    """Return the seconds from starting the command to the first token; the server is gone afterwards."""
    address = free_address()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *plain_words(words, address)]
    async with client_of(address) as client:
        began = perf_counter()
        process = _start(command, variables, log)
        try:
            await client.first_token(lambda: process.poll() is None)
            return perf_counter() - began
        except PartError as error:
            error.add_note(f"last words of the plain server:\n{_last_words(log)}")
            raise
        finally:
            _stop(process)


def _start(command: Sequence[str], variables: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        return subprocess.Popen(
            command, env={**os.environ, **variables}, stdout=output, stderr=output, start_new_session=True
        )


def _last_words(log: Path) -> str:
    return last_words(log.read_text(errors="replace"), 6)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the server and what it has started."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_SECONDS)
