"""The length reward (report, section 2.3.3)."""

import numpy as np

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
Integers = np.ndarray[tuple[int], np.dtype[np.int64]]
Booleans = np.ndarray[tuple[int], np.dtype[np.bool_]]


def length_rewards(num_tokens: Integers, correct: Booleans) -> Floats:
    """Return the length reward of each of k responses to one problem, float64 [k], in [-0.5, 0.5].

    num_tokens: int64 [k], lengths of the responses. correct: bool [k], r(x, y_i, y*) = 1.
    With lambda = 0.5 - (len - min_len) / (max_len - min_len): lambda where correct, min(0, lambda) where not; zero for
    all where all have the same length.
    """
    shortest, longest = num_tokens.min(), num_tokens.max()
    if shortest == longest:
        return np.zeros(len(num_tokens))
    scale = 0.5 - (num_tokens - shortest) / (longest - shortest)
    return np.where(correct, scale, np.minimum(0.0, scale))
