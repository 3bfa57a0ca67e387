"""Compile `copying.c` as the package is built, where there is a C compiler; without one there is a slower way.

One library for each instruction set; which of them a machine can run is found out there. They are named by a digest of
their source, so one of another version is never loaded.
"""

import hashlib
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "sidecars/tandem_sidecars/megatron/copying.c"
INSTRUCTION_SETS = ("avx512f", "avx2")
OPTIONS = ("-std=c11", "-O3", "-Wall", "-shared", "-fPIC")
TIMEOUT_SECONDS = 120.0


class CopyingBuildHook(BuildHookInterface[Any]):
    """Puts the libraries into the wheel; for an editable installation beside their source."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say that the wheel is of one platform."""
        libraries = compile_copying(Path(self.root, SOURCE))
        if libraries:
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            build_data["artifacts"] += [f"/{path.relative_to(self.root)}" for path in libraries]


def compile_copying(source: Path, folder: Path | None = None) -> tuple[Path, ...]:
    """Return the libraries made of a source, in a folder (by default its own); none where there is no compiler."""
    folder = folder or source.parent
    for old in folder.glob(f"{source.stem}-*.so"):
        old.unlink()
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    libraries = []
    for name in INSTRUCTION_SETS:
        library = folder / f"{source.stem}-{name}-{digest}.so"
        unfinished = library.with_suffix(f".{os.getpid()}")
        command = [*shlex.split(os.environ.get("CC", "cc")), *OPTIONS, f"-m{name}", "-o", str(unfinished), str(source)]
        try:
            subprocess.run(command, check=True, timeout=TIMEOUT_SECONDS, capture_output=True, text=True)
            unfinished.rename(library)
        except (OSError, subprocess.SubprocessError) as error:
            why = getattr(error, "stderr", None) or error
            print(f"{source.name} is not compiled, exports copy and sum in two passes: {why}", file=sys.stderr)  # noqa: T201 - the build's output
            return ()
        libraries.append(library)
    return tuple(libraries)
