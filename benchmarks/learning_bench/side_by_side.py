"""Trials in processes of their own, several at a time: one torch thread each."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from time import monotonic

from benchmarks.learning_bench.outcome import Outcome
from benchmarks.learning_bench.trials import Trial


def run_side_by_side(
    missing: Callable[[], Sequence[Trial]],
    run: Callable[[Trial], Outcome],
    keep: Callable[[Trial, Outcome], None],
    num_processes: int,
    until: float,
) -> bool:
    """Run what `missing` returns, asked again after each trial; return whether nothing is missing in the end.

    until: moment of the monotonic clock from which on none is begun. `run` is pickled. Errors: those of `run`.
    """
    running: dict[Future[Outcome], Trial] = {}
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        while True:
            wanted = [trial for trial in missing() if trial not in running.values()]
            for trial in wanted[: num_processes - len(running)] if monotonic() < until else ():
                running[pool.submit(run, trial)] = trial
            if not running:
                return not wanted
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                keep(running.pop(ended), ended.result())
