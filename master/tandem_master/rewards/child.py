"""A process that runs one reward function: questions in, verdicts out, a line of JSON each.

`python -m tandem_master.rewards.child PARENT ENTRY_POINT MEMORY_BYTES [FOLDER]`. What the function prints goes to the
log; the process ends with its parent.
"""

import ctypes
import importlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from tandem_api.resource import Resource
from tandem_master.rewards.verdict import Question, Trouble, Verdict, verdict_of

Function = Callable[..., object]
"""`score(prompt=..., response=..., answer=..., problem_id=...)`: a number."""
PR_SET_PDEATHSIG = 1
MOST_CHARACTERS = 500
"""Of an error's text that is passed on."""


class Reply(Resource):
    """One line of this process. The first one says that it is ready, or why it never will be."""

    value: float | None = None
    """The reward."""
    trouble: Trouble | None = None
    """Why there is none."""
    detail: str = ""
    """The trouble in one line."""


def main(arguments: Sequence[str]) -> None:
    """Answer until the questions end."""
    parent, entry_point, memory_bytes, *folders = arguments
    _die_with(int(parent))
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        sys.path[:0] = folders
        try:
            function = load(entry_point)
        except Exception as error:  # noqa: BLE001 - whatever a module of the user's does when it is imported
            _send(replies, Reply(trouble=Trouble.CRASHED, detail=_told(error)))
            return
        resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
        _send(replies, Reply())
        for line in sys.stdin:
            verdict = ask(function, Question.model_validate_json(line))
            _send(replies, Reply(value=verdict.value, trouble=verdict.trouble, detail=verdict.detail))


def load(entry_point: str) -> Function:
    """Return the function that `module:name` stands for. Errors: whatever importing it raises; TypeError."""
    module, _, name = entry_point.partition(":")
    function = getattr(importlib.import_module(module), name)
    if not callable(function):
        raise TypeError(f"{entry_point} is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]


def ask(function: Function, question: Question) -> Verdict:
    """Return what the function says, or that it raised."""
    try:
        answer = function(
            prompt=question.prompt,
            response=question.response,
            answer=question.answer,
            problem_id=question.problem_id,
        )
    except Exception as error:  # noqa: BLE001 - whatever the user's function raises is its own trouble
        return Verdict(trouble=Trouble.CRASHED, detail=_told(error))
    return verdict_of(answer)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, also in the middle of a question."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os._exit(1)


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:MOST_CHARACTERS]


def _send(replies: TextIO, reply: Reply) -> None:
    replies.write(reply.model_dump_json() + "\n")
    replies.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
