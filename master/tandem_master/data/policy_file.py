"""A file of the policy's folder, parsed."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tandem_master.errors import DataError

M = TypeVar("M", bound=BaseModel)


def parse_file(path: Path, model: type[M]) -> M:
    """Return what a JSON file of the policy's folder says. Errors: DataError, with the field or the file."""
    try:
        return model.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"spec.policy.model.path: {path} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{path}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
