"""The environment of a container's process: what the image would hold, and what the pod says."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tandem_cli.local.volumes import translate
from tandem_operator.plan.objects import Container, EnvVar, Pod

PASSED_ON = ("HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_HOME", "CUDA_VISIBLE_DEVICES")
"""Variables of this machine that stand for what an image has built in."""
POD_FIELDS = ("metadata.name", "metadata.namespace", "status.podIP")
"""Fields of a pod that a variable may take its value from."""


def container_environment(
    pod: Pod, container: Container, volumes: Mapping[str, Path], address: str, temporary: Path
) -> dict[str, str]:
    """Return all variables of one container; nothing else of the caller's environment gets in."""
    programs = Path(sys.executable).parent
    image = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    image |= {"PATH": f"{programs}:{os.environ.get('PATH', os.defpath)}", "TMPDIR": str(temporary)}
    return image | {item.name: _value(pod, container, item, volumes, address) for item in container.env}


def is_known(item: EnvVar) -> bool:
    """Return whether a variable's value can be told without a cluster."""
    if item.value_from is None:
        return True
    return item.value_from.field_ref is not None and item.value_from.field_ref.field_path in POD_FIELDS


def _value(pod: Pod, container: Container, item: EnvVar, volumes: Mapping[str, Path], address: str) -> str:
    if item.value_from is None or item.value_from.field_ref is None:
        return translate(container, volumes, item.value or "")
    values = (pod.metadata.name, pod.metadata.namespace, address)
    return dict(zip(POD_FIELDS, values, strict=True))[item.value_from.field_ref.field_path]
