"""The policy's chat template: from messages to the text that the policy is given."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, JsonValue

from tandem_api.trajectory import Message
from tandem_master.data.policy_file import parse_file
from tandem_master.errors import DataError

DEFAULT_TEMPLATE = "default"
"""Name of the template that is taken where a policy has several."""


class NamedTemplate(BaseModel):
    """One of several templates of a policy."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    template: str


class TokenizerConfig(BaseModel):
    """What is read of tokenizer_config.json. A special token is a text, or an object that has it as `content`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    chat_template: str | tuple[NamedTemplate, ...] | None = None

    def special_tokens(self) -> Mapping[str, str]:
        """Return `bos_token`, `eos_token` and the like, which templates name."""
        found: dict[str, str] = {}
        for name, value in (self.model_extra or {}).items():
            text = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(text, str):
                found[name] = text
        return found


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A policy's chat template, ready to be filled in."""

    template: Template
    special_tokens: Mapping[str, str]

    def text(self, messages: Sequence[Message]) -> str:
        """Return the conversation up to where the policy answers. Errors: ValueError says what the template refuses."""
        written = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self.template.render(messages=written, add_generation_prompt=True, **self.special_tokens)
        except (TemplateError, TypeError, ArithmeticError, LookupError) as error:
            raise ValueError(f"the policy's chat template refuses the messages: {error}") from error


def read_chat_template(folder: Path) -> ChatTemplate | None:
    """Return the chat template of the policy in `folder`, None where it has none. Errors: DataError names the file."""
    path = folder / "tokenizer_config.json"
    config = parse_file(path, TokenizerConfig) if path.exists() else TokenizerConfig()
    own = folder / "chat_template.jinja"
    source = own.read_text(encoding="utf-8") if own.exists() else _default(config)
    if source is None:
        return None
    try:
        return ChatTemplate(_environment().from_string(source), config.special_tokens())
    except TemplateError as error:
        where = own if own.exists() else path
        raise DataError(f"spec.policy.model.path: {where}: the chat template is no Jinja ({error})") from error


def _default(config: TokenizerConfig) -> str | None:
    if isinstance(config.chat_template, tuple):
        return next((item.template for item in config.chat_template if item.name == DEFAULT_TEMPLATE), None)
    return config.chat_template


def _environment() -> ImmutableSandboxedEnvironment:
    """Return what chat templates are written for: blocks leave no line behind, and a few functions are there."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment


def _to_json(value: JsonValue, indent: int | None = None) -> str:
    """Return JSON without the escapes for web pages that Jinja's own filter makes."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)
