"""A fetch beside a plain stream of the same bytes over the same link: of three pods two have them, and one fetches.

The fetch compares every checksum and asks for every range; the stream does neither. Both end in the same memory.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.report.result import PartError, Result, last_words
from benchmarks.weights_bench.link import isolated, linked_pods
from benchmarks.weights_bench.pod import write_segment

NUM_SOURCES = 2
RATE_MEGABITS = 1000
"""Of every pod's link: so much that two cores can keep three pods, the bridge and Python's HTTP busy with it."""
MEBIBYTES, QUICK_MEBIBYTES = 512, 128
TIMEOUT_SECONDS = 600
SHARED_MEMORY = Path("/dev/shm")


def measure_transfer(num_samples: int, mebibytes: int) -> Result:
    """Return what a fetch needs over what a plain stream needs, for each way of reading."""
    command = isolated(__spec__.name if __spec__ else __name__, str(num_samples), str(mebibytes))
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS)
    if finished.returncode:
        raise PartError(last_words(finished.stderr))
    seconds: dict[str, list[float]] = json.loads(finished.stdout)
    link = median(seconds["stream"])
    figures = {"transfer_over_link": median(seconds["http"]) / link, "link_bytes_per_second": (mebibytes << 20) / link}
    left_out = {}
    if "mooncake" in seconds:
        figures["transfer_over_link_mooncake"] = median(seconds["mooncake"]) / link
    else:
        left_out["transfer_over_link_mooncake"] = "Mooncake cannot be loaded here"
    samples = {"seconds": seconds, "bytes": mebibytes << 20, "megabits_of_a_link": RATE_MEGABITS}
    return Result(figures, samples, left_out)


def run_pods(num_samples: int, num_bytes: int) -> str:
    """Return the seconds of every sample as the fetching pod tells them. Runs in a network namespace of its own."""
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
        command = [sys.executable, "-m", "benchmarks.weights_bench.pod"]
        shard = json.loads(write_segment(Path(folder), num_bytes).model_dump_json())
        commands = [[*command, "give", folder]] * NUM_SOURCES + [[*command, "take", folder]]
        with linked_pods(commands, RATE_MEGABITS) as (*sources, reader):
            for source in sources:
                source.tell(json.dumps({"address": source.address, "shard": shard}))
            addresses = [source.address for source in sources]
            order = {"address": reader.address, "sources": addresses, "num_samples": num_samples, "shard": shard}
            reader.tell(json.dumps(order))
            return reader.hear()


if __name__ == "__main__":
    try:
        print(run_pods(int(sys.argv[1]), int(sys.argv[2]) << 20))
    except PartError as error:
        sys.exit(str(error))
