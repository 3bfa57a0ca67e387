#!/usr/bin/env python3
"""Build the Kubernetes programs that tests need from pinned Go modules, once, into the user's cache.

`build.py node` builds what is missing of the group `node`; `build.py --where node` only says where its programs are.
Nothing but the standard library: it runs before anything is installed.
"""

import argparse
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tandem" / "control-plane"
TOOLCHAIN = "go1.26.8"
"""The compiler: a Go from 1.21 on fetches it through the module proxy where it is another one itself."""
OLDEST_GO = (1, 21)
LEAST_FREE_BYTES = 12 << 30
"""A cold build of everything leaves about 11 GB in Go's module and build caches."""
REPORT_SECONDS = 30.0


class BuildError(Exception):
    """What a person can mend: one line with the way out."""


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """One folder here with a go.mod; `packages` are built into files, `links` are other names of the first one."""

    name: str
    version_of: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    links: tuple[str, ...] = ()
    tags: str = ""
    stamps: tuple[str, ...] = ()
    """Linker variables: {version}, {major} and {minor} are filled in from go.mod."""
    manifests: tuple[str, ...] = ()
    """Files of the module that it is about, as patterns: copies of them are put beside the programs."""

    @property
    def folder(self) -> Path:
        return HERE / self.name

    @property
    def version(self) -> str:
        """Version of the module that it is about, as go.mod pins it; empty for a program of our own."""
        pinned = re.search(rf"{re.escape(self.version_of)} v(\S+)", (self.folder / "go.mod").read_text())
        return pinned.group(1) if self.version_of and pinned else ""

    @property
    def manifests_name(self) -> str:
        return f"{self.name}-manifests"

    @property
    def programs(self) -> tuple[str, ...]:
        """Names of what is built: the folder of manifests counts as one."""
        return (self.links or tuple(self.packages)) + ((self.manifests_name,) if self.manifests else ())

    @property
    def home(self) -> Path:
        """Folder of its programs; the name changes with every pinned version, source line and flag."""
        flags = (TOOLCHAIN, self.packages, self.tags, self.stamps, platform.machine(), *self.manifests)
        digest = hashlib.sha256(repr(flags).encode())
        for source in sorted([self.folder / "go.mod", *self.folder.glob("go.sum"), *self.folder.glob("*.go")]):
            digest.update(source.read_bytes())
        return CACHE / "-".join(filter(None, (self.name, self.version, digest.hexdigest()[:12])))


_VERSION = "k8s.io/component-base/version"
_CONTAINERD = "github.com/containerd/containerd/v2"
KUBE = Module(
    "kube",
    "k8s.io/kubernetes",
    {"kube": "."},
    ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"),
    # Without these a server says v0.0.0 and clients take it for an ancient one.
    stamps=(
        f"{_VERSION}.gitVersion=v{{version}}",
        f"{_VERSION}.gitMajor={{major}}",
        f"{_VERSION}.gitMinor={{minor}}",
    ),
)
CONTAINERD = Module(
    "containerd",
    _CONTAINERD,
    {name: f"{_CONTAINERD}/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
    tags="no_btrfs,no_devmapper,no_zfs,urfave_cli_no_docs",
    stamps=(f"{_CONTAINERD}/version.Version={{version}}",),
)
FAKEGPU = Module("fakegpu", packages={"fakegpu": "."})
PAUSE = Module("pause", packages={"pause": "."})
COREDNS = Module("coredns", "github.com/coredns/coredns", {"coredns": "."})
KWOK = Module("kwok", "sigs.k8s.io/kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"})
JOBSET = Module("jobset", "sigs.k8s.io/jobset", {"jobset-controller": "sigs.k8s.io/jobset"})
KUEUE = Module(
    "kueue",
    "sigs.k8s.io/kueue",
    {"kueue": "sigs.k8s.io/kueue/cmd/kueue"},
    manifests=("config/components/crd/bases/*.yaml", "config/components/webhook/manifests.yaml"),
)
VOLCANO = Module(
    "volcano",
    "volcano.sh/volcano",
    {"volcano-scheduler": "volcano.sh/volcano/cmd/scheduler"},
    manifests=tuple(
        f"config/crd/volcano/bases/{group}.*.yaml" for group in ("nodeinfo", "scheduling", "shard", "topology")
    ),
)

GROUPS = {
    "api-server": (KUBE,),
    "node": (KUBE, CONTAINERD, PAUSE, FAKEGPU, COREDNS),
    "bench": (KUBE, KWOK, JOBSET),
    "queues": (KUBE, KWOK, KUEUE, VOLCANO),
}


def modules_of(groups: list[str]) -> list[Module]:
    """Return the modules of the groups, each once, in the order of building."""
    return list(dict.fromkeys(module for group in groups for module in GROUPS[group]))


def assets() -> dict[str, Path]:
    """Return the programs in the folder that KUBEBUILDER_ASSETS names: who has them need not build them."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    return {path.name: path for path in Path(folder).iterdir() if os.access(path, os.X_OK)} if folder else {}


def places(groups: list[str]) -> dict[str, Path]:
    """Return where every program of the groups is, built or not."""
    built = {program: module.home / program for module in modules_of(groups) for program in module.programs}
    return built | assets()


def missing(groups: list[str]) -> list[Module]:
    """Return the modules of which a program has to be built."""
    given = assets()
    return [m for m in modules_of(groups) if not all(p in given or (m.home / p).exists() for p in m.programs)]


def find_go() -> str:
    """Return a Go that can build, the one that GO names if it is set; raise BuildError naming the one to install."""
    usual = [shutil.which("go"), "/usr/local/go/bin/go", str(CACHE / "toolchain" / "go" / "bin" / "go")]
    for candidate in [os.environ["GO"]] if "GO" in os.environ else usual:
        if not candidate or not os.access(candidate, os.X_OK):
            continue
        said = subprocess.run([candidate, "version"], capture_output=True, text=True, cwd="/", check=False).stdout
        found = re.search(r"go(\d+)\.(\d+)", said)
        if found and (int(found.group(1)), int(found.group(2))) >= OLDEST_GO:
            return candidate
    raise BuildError(
        f"Go: none found; install Go {TOOLCHAIN.removeprefix('go')} from https://go.dev/dl/ (any from "
        f"{'.'.join(map(str, OLDEST_GO))} on fetches it), or run tools/control-plane/packages.sh"
    )


def go_environment() -> dict[str, str]:
    """Return the environment of a build that gives the same binary everywhere."""
    fixed = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false", "GOWORK": "off"}
    return os.environ | fixed | {"GOTOOLCHAIN": f"{TOOLCHAIN}+auto"}


def build(go: str, module: Module, counted: Iterator[str]) -> None:
    """Build all programs of a module and put them in place in one step; raise BuildError."""
    CACHE.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{module.name}-", dir=CACHE))
    unfinished.chmod(0o755)
    try:
        for output, package in module.packages.items():
            compile_one(go, module, package, unfinished / output, f"{next(counted)} {module.version or 'ours'}")
        for link in module.links:
            (unfinished / link).symlink_to(next(iter(module.packages)))
        if module.manifests:
            copy_manifests(go, module, unfinished / module.manifests_name)
        shutil.rmtree(module.home, ignore_errors=True)
        unfinished.rename(module.home)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def copy_manifests(go: str, module: Module, target: Path) -> None:
    """Copy the manifests out of the module that it is about; raise BuildError."""
    command = [go, "list", "-m", "-f", "{{.Dir}}", module.version_of]
    found = subprocess.run(
        command, cwd=module.folder, env=go_environment(), capture_output=True, text=True, check=False
    )
    target.mkdir()
    for pattern in module.manifests:
        files = sorted(Path(found.stdout.strip()).glob(pattern)) if found.returncode == 0 else []
        if not files:
            raise BuildError(f"{module.name}: no {pattern} in {module.version_of}; mend its manifests in build.py")
        for file in files:
            shutil.copyfile(file, target / file.name)


def compile_one(go: str, module: Module, package: str, output: Path, title: str) -> None:
    """Compile one binary and report how far it is; raise BuildError."""
    major, minor, *_ = [*module.version.split("."), "", ""]
    stamps = [stamp.format(version=module.version, major=major, minor=minor) for stamp in module.stamps]
    linker = " ".join(["-s", "-w", *(f"-X {stamp}" for stamp in stamps)])
    command = [go, "build", "-v", "-tags", module.tags, "-ldflags", linker, "-o", str(output), package]
    progress = Progress(f"{title} {output.name}")
    process = subprocess.Popen(
        command, cwd=module.folder, env=go_environment(), stderr=subprocess.PIPE, text=True, errors="replace"
    )
    assert process.stderr is not None
    said = [line.strip() for line in progress.follow(process.stderr)]
    if process.wait() != 0:
        raise BuildError(explain(module, said))
    progress.end()


class Progress:
    """Tells on stderr how many packages are compiled: on a terminal in one line, else now and then."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._began = self._told = monotonic()
        self._num_packages = self._num_downloads = 0
        self._live = sys.stderr.isatty()
        self._tell("…")

    def follow(self, lines: Iterator[str]) -> Iterator[str]:
        """Yield what `go build -v` says, counting."""
        for line in lines:
            self._num_downloads += line.startswith("go: downloading ")
            self._num_packages += not line.startswith("go: ")
            if self._live or monotonic() - self._told >= REPORT_SECONDS:
                self._tell(self._so_far())
            yield line

    def end(self) -> None:
        self._tell(f"done: {self._so_far()}", last=True)

    def _so_far(self) -> str:
        downloads = f"{self._num_downloads} modules fetched, " if self._num_downloads else ""
        return f"{downloads}{self._num_packages} packages compiled, {monotonic() - self._began:.0f} s"

    def _tell(self, text: str, last: bool = False) -> None:
        self._told = monotonic()
        ends = ("\r\033[K", "\n" if last else "") if self._live else ("", "\n")
        sys.stderr.write(f"{ends[0]}{self._title}: {text}{ends[1]}")
        sys.stderr.flush()


NO_NETWORK = ("dial tcp", "no such host", "i/o timeout", "connection refused", "proxyconnect", "TLS handshake timeout")


def explain(module: Module, said: list[str]) -> str:
    """Return one line about why Go gave up, with the way out."""
    errors = [line for line in said if ": " in line and not line.startswith("go: downloading ")]
    if any("no space left on device" in line for line in said):
        return f"{module.name}: the disk is full; free about {LEAST_FREE_BYTES >> 30} GB, or move GOCACHE, GOMODCACHE"
    if any(symptom in line for symptom in NO_NETWORK for line in said):
        proxy = f" {os.environ['GOPROXY']}" if os.environ.get("GOPROXY") else ""
        return f"{module.name}: no way to the Go module proxy{proxy}; set GOPROXY or HTTPS_PROXY, or build on the net"
    return f"{module.name}: {errors[-1] if errors else 'Go ended without a word'}; in {module.folder}"


@contextmanager
def alone() -> Iterator[None]:
    """Hold the lock of the cache: a second run waits, then finds everything built."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write("another run builds the control plane; waiting for it\n")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build_missing(groups: list[str]) -> None:
    """Build what is missing, one binary at a time; raise BuildError."""
    if not missing(groups):
        return
    with alone():
        wanted = missing(groups)
        if not wanted:
            return
        go = find_go()
        if shutil.disk_usage(CACHE).free < LEAST_FREE_BYTES:
            raise BuildError(f"{CACHE}: the disk is nearly full; a cold build needs {LEAST_FREE_BYTES >> 30} GB")
        os.nice(5)
        sys.stderr.write(f"building into {CACHE}, once (all of it takes about 40 minutes on 2 cores)\n")
        num_binaries = sum(len(module.packages) for module in wanted)
        counted = (f"[{number}/{num_binaries}]" for number in range(1, num_binaries + 1))
        for module in wanted:
            build(go, module, counted)


def say_where(groups: list[str]) -> None:
    """Write name, tab and path of each program; raise BuildError where one is not built."""
    lacking = missing(groups)
    if lacking:
        names = ", ".join(module.name for module in lacking)
        raise BuildError(f"{names}: not built; run tools/control-plane/build.py {' '.join(groups)}")
    for program, path in places(groups).items():
        sys.stdout.write(f"{program}\t{path}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the Kubernetes programs that tests need, once.")
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help=f"{', '.join(GROUPS)}; all of them when none is named"
    )
    parser.add_argument("--where", action="store_true", help="build nothing; write name and path of each program")
    parser.add_argument(
        "--find-go", action="store_true", help="build nothing; write the path of the Go that would build"
    )
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.groups) - set(GROUPS))
    if unknown:
        parser.error(f"{unknown[0]}: no such group; name one of {', '.join(GROUPS)}")
    groups = arguments.groups or list(GROUPS)
    try:
        if arguments.find_go:
            sys.stdout.write(f"{find_go()}\n")
        elif arguments.where:
            say_where(groups)
        else:
            build_missing(groups)
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; what is compiled is kept\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
