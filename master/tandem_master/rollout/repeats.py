"""Responses that repeat themselves, found while their tokens stream in (report, section 2.6.2). Pure.

The n-grams of the newest tokens are kept as a table of their rolling hashes (Karp and Rabin), into which each token
brings one and from which it takes one: the work is linear in the tokens, whatever the lengths of n-gram and window.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

MODULUS = (1 << 61) - 1
BASE = 1_412_796_183_460_216_157
"""Any number below the modulus will do; two n-grams of a window of w tokens collide in about w^2 / 2^61 of windows."""


@dataclass(frozen=True, slots=True)
class RepeatRule:
    """When a response counts as repeating itself."""

    window_tokens: int
    ngram_tokens: int
    """Less than window_tokens."""
    max_share: float
    """Largest share of the window's n-grams that may be no first ones of their kind in it."""

    @property
    def num_ngrams(self) -> int:
        """N-grams of a full window."""
        return self.window_tokens - self.ngram_tokens + 1


class RepeatWatch:
    """Takes in the tokens of one response, in order, and tells where it began to repeat itself."""

    def __init__(self, rule: RepeatRule, token_ids: Sequence[int] = ()) -> None:
        """`token_ids`: what there is of the response already; only its end matters."""
        self._rule = rule
        self._leading = pow(BASE, rule.ngram_tokens, MODULUS)
        self._hash = 0
        self._ngram: deque[int] = deque()
        """The newest tokens, as many as an n-gram has."""
        self._hashes: deque[int] = deque()
        """Of the window's n-grams, oldest first."""
        self._counts: dict[int, int] = {}
        """How often each hash is among them."""
        self._short: list[int] | None = list(token_ids[-rule.window_tokens :])
        """All tokens, as long as a window is not full: before that nothing repeats itself, and nothing is hashed."""

    def first_excess(self, token_ids: Sequence[int]) -> int | None:
        """Take in further tokens up to the first after which the response repeats itself; return how many that are.

        None where it does not.
        """
        if self._short is not None:
            if len(self._short) + len(token_ids) < self._rule.window_tokens:
                self._short += token_ids
                return None
            known, self._short = self._short, None
            self._scan(known)
        return self._scan(token_ids)

    def _scan(self, token_ids: Sequence[int]) -> int | None:
        """Do as first_excess. All in one loop, on local names: it runs for every token of a long response."""
        ngram, hashes, counts, value = self._ngram, self._hashes, self._counts, self._hash
        ngram_tokens, num_ngrams, leading = self._rule.ngram_tokens, self._rule.num_ngrams, self._leading
        fewest = num_ngrams - floor(self._rule.max_share * num_ngrams)
        for number, token_id in enumerate(token_ids, start=1):
            ngram.append(token_id)
            value = (value * BASE + token_id + 1) % MODULUS
            if len(ngram) > ngram_tokens:
                value = (value - (ngram.popleft() + 1) * leading) % MODULUS
            elif len(ngram) < ngram_tokens:
                continue
            hashes.append(value)
            counts[value] = counts.get(value, 0) + 1
            if len(hashes) > num_ngrams:
                oldest = hashes.popleft()
                if counts[oldest] == 1:
                    del counts[oldest]
                else:
                    counts[oldest] -= 1
            elif len(hashes) < num_ngrams:
                continue
            if len(counts) < fewest:
                self._hash = value
                return number
        self._hash = value
        return None
