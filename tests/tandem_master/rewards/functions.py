"""Reward functions, good and bad. They run in processes of their own."""

import os
import sys
from time import sleep

NOT_A_FUNCTION = 3


def length(*, prompt: str, response: str, answer: str, problem_id: str) -> float:
    return len(response) / len(answer)


def correct(*, response: str, answer: str, **others: str) -> bool:
    sys.stdout.write("this is for the log\n")
    sys.stdout.flush()
    return response == answer


def raises(*, response: str, **others: str) -> float:
    if response == "bad":
        raise KeyError(response)
    return 1.0


def nothing(**question: str) -> None:
    """Forgets its answer."""


def not_a_number(**question: str) -> float:
    return float("nan")


def hangs(*, response: str, **others: str) -> float:
    if response == "bad":
        sleep(3600)
    return 1.0


def swells(*, response: str, **others: str) -> float:
    blocks = [bytearray(1 << 24) for _ in range(1 << 12 if response == "bad" else 1)]
    return float(len(blocks))


def leaves(*, response: str, **others: str) -> float:
    if response == "bad":
        os._exit(7)
    return 1.0


def exits(**question: str) -> float:
    sys.exit(3)


def secrets(**question: str) -> float:
    return float(sum(name.startswith("TANDEM_TOKEN") for name in os.environ))
