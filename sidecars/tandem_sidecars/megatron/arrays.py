"""NumPy arrays over tensors that will be resized: `Tensor.numpy` pins a storage to its size, offloading shrinks it."""

import ctypes

import numpy as np
import torch

_FORMATS = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}


def array_of(tensor: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.integer]]:
    """Return a CPU tensor's own memory as integers of its items' size, in its shape; good until it is resized."""
    size = tensor.element_size()
    span = 1 + sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    num_bytes = span * size if tensor.numel() else 0
    memory = (ctypes.c_char * num_bytes).from_address(tensor.data_ptr() if num_bytes else 0)
    memory.tensor = tensor  # type: ignore[attr-defined] # what keeps the memory, as long as there is an array over it
    strides = tuple(stride * size for stride in tensor.stride())
    return np.ndarray(tuple(tensor.shape), _FORMATS[size], memory, strides=strides)  # type: ignore[arg-type] # any buffer will do
