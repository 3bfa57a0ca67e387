"""Mooncake's transfer engine: pods read each other's memory by themselves, over RDMA where there is a device, else TCP.

Its two ports listen on every address of the pod and ask nobody who they are: whoever reaches them reads what is lent.
What is lent can be read only. It answers in numbers, not in exceptions, and no call of it can be called back: what it
writes goes into stages of ours, never into a segment.
"""

import logging
import mmap
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from tandem_api.engine import SegmentAddress
from tandem_checkpoint.segments.store import map_for_sending
from tandem_checkpoint.transfer.exports import Held

logger = logging.getLogger(__name__)

MOST_COPIES = 1024
"""Copies of a batch: of more than about 2048 none is done, and the peer then refuses good batches for half a second."""
STAGE_BYTES = 16 << 20
"""What a batch brings at most, beside the witness."""
MOST_STAGES = 32
WITNESS_BYTES = 32
PROGRESS_SECONDS = 5
"""A transfer of which no byte comes for so long is given up; Mooncake's own default is 30 s."""
VARIABLES = {"MC_TCP_PROGRESS_TIMEOUT_SEC": str(PROGRESS_SECONDS), "MC_LOG_LEVEL": "WARNING"}
RDMA_DEVICES = Path("/sys/class/infiniband")
Bytes = npt.NDArray[np.uint8]


class MooncakeMissing(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """Mooncake is not installed here, or a library that it needs is not; the message says which."""


class TransferEngine(Protocol):
    """What we use of mooncake.engine.TransferEngine."""

    def initialize(self, host: str, metadata: str, protocol: str, devices: str) -> int: ...
    def get_rpc_port(self) -> int: ...
    def register_memory(self, address: int, num_bytes: int) -> int: ...
    def unregister_memory(self, address: int) -> int: ...
    def batch_transfer_sync_read(
        self, peer: str, into: list[int], addresses: list[int], num_bytes: list[int]
    ) -> int: ...


@dataclass(frozen=True, slots=True)
class Copy:
    """One run of bytes of a peer's memory, and where it goes in ours."""

    address: int
    into: int
    num_bytes: int


@dataclass(slots=True)
class Stage:
    """Memory that Mooncake may write into: the witness, and behind it the bytes."""

    memory: Bytes

    @property
    def address(self) -> int:
        return int(self.memory.ctypes.data)

    @property
    def witness(self) -> bytes:
        return self.memory[:WITNESS_BYTES].tobytes()

    def content(self, num_bytes: int) -> memoryview:
        return self.memory.data[WITNESS_BYTES : WITNESS_BYTES + num_bytes]


@dataclass(slots=True)
class Session:
    """This process's end of Mooncake; there is one for as long as the process lives."""

    engine: TransferEngine
    name: str
    """Address by which peers find it."""
    protocol: Literal["tcp", "rdma"]
    _stages: list[Stage] = field(default_factory=list)
    _num_stages: int = 0
    _registered: dict[int, Bytes] = field(default_factory=dict)
    """What Mooncake may use, by address: it must stay mapped, and nothing else may come to lie there."""

    def register(self, memory: Bytes) -> int:
        """Let Mooncake use some memory, for good; return its address."""
        address = int(memory.ctypes.data)
        status = self.engine.register_memory(address, memory.nbytes)
        if status:
            raise MooncakeMissing(f"{memory.nbytes} bytes cannot be registered for {self.protocol} (status {status})")
        self._registered[address] = memory
        return address

    def unregister(self, memory: Bytes) -> None:
        """Have Mooncake forget some memory, which may be unmapped then."""
        address = int(memory.ctypes.data)
        self.engine.unregister_memory(address)
        del self._registered[address]

    def read(self, peer: str, copies: Sequence[Copy]) -> int:
        """Copy from a peer's memory; return 0, or Mooncake's number of what went wrong. Blocks, without the GIL."""
        if len(copies) > MOST_COPIES:
            raise ValueError(f"{len(copies)} copies in a batch; at most {MOST_COPIES} are carried out")
        return self.engine.batch_transfer_sync_read(
            peer,
            [copy.into for copy in copies],
            [copy.address for copy in copies],
            [copy.num_bytes for copy in copies],
        )

    def take_stage(self) -> Stage | None:
        """Return a stage that nobody writes into; None where all are taken, by transfers that have not ended."""
        if self._stages:
            return self._stages.pop()
        if self._num_stages >= MOST_STAGES:
            return None
        self._num_stages += 1
        stage = Stage(np.frombuffer(mmap.mmap(-1, WITNESS_BYTES + STAGE_BYTES), dtype=np.uint8))
        self.register(stage.memory)
        return stage

    def give_back(self, stage: Stage) -> None:
        """Take a stage back once the transfer into it has ended, well or not."""
        self._stages.append(stage)


@dataclass(slots=True)
class Lender:
    """Lets other pods read this pod's segments. See tandem_checkpoint.http.capabilities.Lender."""

    session: Session
    _witness: Bytes | None = None
    _lent: dict[Path, tuple[int, Bytes]] = field(default_factory=dict)
    """Mapped segments, with the number of the file: each mapping is registered once."""
    _lock: Lock = field(default_factory=Lock)

    def address(self, held: Held) -> SegmentAddress:
        """Return where a generation's bytes lie in this process; any thread may ask.

        Errors: MooncakeMissing, SegmentError.
        """
        with self._lock:
            mapped = self._mapped(held.path)
            if self._witness is None:
                witness = np.frombuffer(secrets.token_bytes(WITNESS_BYTES), dtype=np.uint8)
                self.session.register(witness)
                self._witness = witness
        return SegmentAddress(
            session=self.session.name,
            protocol=self.session.protocol,
            segment_address=int(mapped.ctypes.data),
            segment_bytes=mapped.nbytes,
            witness_address=int(self._witness.ctypes.data),
            witness=self._witness.tobytes().hex(),
        )

    def close(self) -> None:
        """Lend nothing any more."""
        for _, memory in self._lent.values():
            self.session.unregister(memory)
        self._lent.clear()
        if self._witness is not None:
            self.session.unregister(self._witness)
        self._witness = None

    def _mapped(self, path: Path) -> Bytes:
        """Return the segment's mapping, which is shared and cannot be written: a peer's write into it fails."""
        number = path.stat().st_ino
        known, memory = self._lent.get(path, (None, None))
        if memory is not None and known == number:
            return memory
        if memory is not None:
            self.session.unregister(memory)
        memory = np.frombuffer(map_for_sending(path), dtype=np.uint8)
        self.session.register(memory)
        self._lent[path] = number, memory
        return memory


def open_session(host: str) -> Session:
    """Start Mooncake in this process, for peers that reach us at the address `host`. Errors: MooncakeMissing."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    try:
        from mooncake import engine as library
    except ImportError as error:
        raise MooncakeMissing(str(error)) from None
    engine: TransferEngine = library.TransferEngine()
    protocol: Literal["tcp", "rdma"] = "rdma" if has_rdma() else "tcp"
    host = f"[{host}]" if ":" in host else host
    status = engine.initialize(host, "P2PHANDSHAKE", protocol, "")
    if status:
        raise MooncakeMissing(f"it does not start with {protocol} (status {status})")
    return Session(engine, f"{host}:{engine.get_rpc_port()}", protocol)


def has_rdma(devices: Path = RDMA_DEVICES) -> bool:
    """Tell whether there is a device for RDMA. Mooncake itself starts with "rdma" without one and then uses TCP."""
    return devices.is_dir() and any(devices.iterdir())
