"""Pieces of weights copied and summed in one pass, by `copying.c` where it was compiled when Tandem was installed."""

import ctypes
import hashlib
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("copying.c")
INSTRUCTION_SETS = ("avx512f", "avx2")
"""The fastest first; named as the kernel names them."""
LEAST_BYTES = 241
"""Of a piece: shorter ones have other formulas."""
CPU_INFO = Path("/proc/cpuinfo")
Box = tuple[int, int, int, int, int, int]
"""Rows of one length, as `struct box` has them: addresses of source and target, number of rows, and in bytes the length
of a row and the distances from one to the next in source and target."""
NUM_WORDS = 6

logger = logging.getLogger(__name__)


@cache
def find_library() -> ctypes.CDLL | None:
    """Return the library for this processor; None, and a line in the log, where none was compiled for it."""
    return load_library(SOURCE.parent)


def load_library(folder: Path) -> ctypes.CDLL | None:
    """Return the library in a folder that is of the present source and runs on this processor."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    flags = set(CPU_INFO.read_text().split())
    for name in INSTRUCTION_SETS:
        path = folder / f"{SOURCE.stem}-{name}-{digest}.so"
        if name in flags and path.exists():
            library = ctypes.CDLL(str(path))
            library.copy_pieces.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, *[ctypes.c_void_p] * 2]
            library.copy_pieces.restype = None
            return library
    logger.warning("%s is not compiled for this processor, exports take longer; have cc and install again", SOURCE.name)
    return None


class Batch:
    """Pieces to be copied. Any number of threads may copy at once; each ends when there is none left to begin."""

    def __init__(self, library: ctypes.CDLL, pieces: Sequence[Sequence[Box]]) -> None:
        """Take the boxes of each piece, in order. Nothing keeps their memory: the caller does, until all is copied.

        Raises ValueError for a piece of fewer than LEAST_BYTES, or an empty box.
        """
        self._library = library
        self._boxes = np.array([box for piece in pieces for box in piece], np.uint64).reshape(-1, NUM_WORDS)
        self._ends = np.cumsum([len(piece) for piece in pieces], dtype=np.uint64)
        self._next = ctypes.c_uint64(0)
        self._digests = np.zeros(len(pieces), np.uint64)
        sizes = self._boxes[:, 2] * self._boxes[:, 3]
        if not sizes.all() or any(sum(box[2] * box[3] for box in piece) < LEAST_BYTES for piece in pieces):
            raise ValueError(f"a piece has fewer than {LEAST_BYTES} bytes, or an empty box")

    def copy(self) -> None:
        """Copy pieces that nobody has begun, without the interpreter's lock."""
        self._library.copy_pieces(
            self._boxes.ctypes.data,
            self._ends.ctypes.data,
            len(self._ends),
            ctypes.addressof(self._next),
            self._digests.ctypes.data,
        )

    def checksums(self) -> list[int]:
        """Return XXH3 (64 bits, no seed) of each piece's bytes, once all threads have ended."""
        return [int(digest) for digest in self._digests]
