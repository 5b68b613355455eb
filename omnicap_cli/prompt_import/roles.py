"""Which names speak of a system text and which of a question, and which values hold both."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from omnicap_cli.prompt_import.values import Instance, Listing, Table, Unknown, Value

SYSTEM: Final = "system text"
QUESTION: Final = "question"
ROLES: Final = (SYSTEM, QUESTION)
IN_MESSAGE, BY_NAME, BY_VAGUE_NAME, IN_TABLE = range(4)  # ranks, nearest to the model first
_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_SYSTEM_WORDS: Final = {"system", "systems", "sys"}
_QUESTION_WORDS: Final = {
    *("question", "questions", "query", "queries", "user", "users", "instruction", "instructions"),
}
_VAGUE_WORDS: Final = {"prompt", "prompts"}
_OTHER_WORDS: Final = {  # beside them, the words above speak of something else
    *("file", "files", "path", "dir", "os", "operating", "platform", "info", "version", "name", "names", "agent"),
    *("id", "ids", "num", "count", "index", "idx", "len", "length", "token", "tokens"),
}
_PAIR_WORDS: Final = {"text", "content"}  # beside a system text, these are the question


class Role(NamedTuple):
    """`rank` is BY_NAME, or BY_VAGUE_NAME where the name says no more than "prompt"."""

    name: str
    rank: int


def role_of(name: str) -> Role | None:
    """The role that the name of a variable, function or key speaks of."""
    words = {word.lower() for word in _WORD.findall(name)}
    if words & _OTHER_WORDS:
        return None
    if words & _SYSTEM_WORDS:
        return Role(SYSTEM, BY_NAME)
    if words & _QUESTION_WORDS:
        return Role(QUESTION, BY_NAME)
    return Role(QUESTION, BY_VAGUE_NAME) if words & _VAGUE_WORDS else None


def pair_of(value: Value) -> list[tuple[str, Value]]:
    """The roles and texts of one prompt: a pair (system text, question), or a dict that names one of them at least."""
    if isinstance(value, tuple | Listing):
        items = list(value) if isinstance(value, tuple) else value.items
        are_texts = len(items) == 2 and all(isinstance(item, str | Unknown) for item in items)
        return list(zip(ROLES, items, strict=True)) if are_texts and not are_keys(items) else []
    if not isinstance(value, Table | Instance):
        return []
    fields = value.items if isinstance(value, Table) else value.attributes.items
    roles = {key: role_of(key) for key in fields if isinstance(key, str)}
    if not any(role and role.rank == BY_NAME for role in roles.values()):
        return []
    named = [(role.name, role.rank, key) for key, role in roles.items() if role]
    named += [(QUESTION, IN_TABLE, key) for key in roles if key.lower() in _PAIR_WORDS]
    best: dict[str, str] = {}
    for role_name, _, key in sorted(named, key=lambda each: each[1]):
        best.setdefault(role_name, key)
    return [(name, fields[key]) for name, key in best.items() if isinstance(fields[key], str | Unknown)]


def are_keys(items: list[Value]) -> bool:
    """Whether these are names of something, not texts for a model: each is one word."""
    return bool(items) and all(isinstance(item, str) and _KEY.fullmatch(item) for item in items)
