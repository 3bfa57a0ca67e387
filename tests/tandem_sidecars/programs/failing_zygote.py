"""The real zygote, but every copy of a server's second weights fails in the middle: half of them are new then."""

from collections.abc import Sequence

from tandem_sidecars.vllm import __main__, binding
from tandem_sidecars.vllm.binding import Place, copy

_num_copies = 0


def _copy_half(items: Sequence[Place]) -> None:
    global _num_copies
    _num_copies += 1
    if _num_copies == 1:
        copy(items)
        return
    copy(items[: len(items) // 2])
    raise OSError("planted: the segment cannot be read any further")


if __name__ == "__main__":
    setattr(binding, "copy", _copy_half)  # noqa: B010 - a name of theirs, not meant to be set
    __main__.main()
