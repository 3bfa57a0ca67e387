"""Responses that repeat themselves (report, section 2.6.2)."""

from pydantic import Field

from tandem_api.invariant import Guarded, Invariant

MAX_WINDOW_TOKENS = 1 << 20


class RepeatsSpec(Guarded):
    """A response that repeats itself is stopped while its tokens stream in (report, section 2.6.2, which names no
    figure)."""

    window_tokens: int = Field(default=2048, ge=0, le=MAX_WINDOW_TOKENS)
    """Newest tokens of a response that are looked at; nothing is stopped before there are as many. 0: nothing ever."""
    ngram_tokens: int = Field(default=16, ge=1, le=4096)
    """Length of the n-grams that are compared."""
    max_share: float = Field(default=0.8, gt=0, le=1)
    """A response is stopped once more than this share of the window's n-grams are no first ones of their kind in it.
    What comes round every p tokens repeats itself with a share of about 1 - p / windowTokens."""
    penalty: float = Field(default=0.5, ge=0, le=1.0e6)
    """A response that was stopped is not scored: its reward is -penalty."""

    invariants = (
        Invariant(
            field="ngramTokens",
            cel="self.windowTokens == 0 || self.ngramTokens < self.windowTokens",
            holds=lambda repeats: repeats.window_tokens == 0 or repeats.ngram_tokens < repeats.window_tokens,
            message="is not less than windowTokens; lower it, or raise windowTokens",
        ),
    )
