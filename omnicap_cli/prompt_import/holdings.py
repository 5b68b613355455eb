"""What the tables of a script hold, by key and by type, and the keys that they list for a type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from omnicap_cli.errors import OmnicapError
from omnicap_cli.prompt_import.clues import Event
from omnicap_cli.prompt_import.following import Run, named_texts
from omnicap_cli.prompt_import.places import Places, language
from omnicap_cli.prompt_import.roles import BY_NAME, IN_TABLE
from omnicap_cli.prompt_import.tables import Entry, Listed, entries, named_lists
from omnicap_cli.prompt_import.values import Value
from omnicap_cli.prompt_import.verdicts import Target, verdict

_MAX_TEXTS: Final = 20_000


class Holdings:
    """The texts and lists of a script that was followed with no key in mind. Raises OmnicapError for too many.

    `kinds_of` gives the types that list a key; `promised` are the keys of lists that are surely about styles.
    """

    def __init__(self, run: Run, places: Places) -> None:
        self._run, self._places = run, places
        tables = list(dict.fromkeys(entries(run.envs, places.type_in)))
        if len(tables) > _MAX_TEXTS:
            problem = f"the tables of the script hold {len(tables):,} texts, too many for prompts"
            raise OmnicapError(problem, hint="Give it the part that holds the prompts, in a file alone.")
        self._constants = [event for event in named_texts(run.envs[0]) if event.rank == BY_NAME]
        self._of_key: dict[str, list[tuple[Target, Entry]]] = {}
        self._of_type: dict[str, list[Entry]] = {}
        self.roles: set[str] = set()
        self.without_role: set[str] = set()
        self.kinds_of: dict[str, list[str]] = {}
        self.promised: set[str] = set()
        for each in tables:
            if isinstance(each, Entry):
                self._sort(each)
        self._take_lists([each for each in tables if isinstance(each, Listed)])

    @property
    def targets(self) -> dict[str, list[Target]]:
        """What the tables have texts for, by key."""
        return {key: list(dict.fromkeys(of for of, _ in having)) for key, having in self._of_key.items()}

    @property
    def kinds(self) -> set[str]:
        """What the tables use as types."""
        outer = {of.type for having in self._of_key.values() for of, _ in having if of.type}
        return outer | {kind for kinds in self.kinds_of.values() for kind in kinds}

    def text(self, target: Target, kind: str, role: str) -> Value:
        """The verdict on a text for a key, else for all styles of its built-in type `kind`, else for all."""
        own = [entry for of, entry in self._of_key.get(target.key, []) if entry.role == role and of.covers(target)]
        shared = [entry for entry in self._of_type.get(kind, []) if entry.role == role]
        return verdict([Event(role, IN_TABLE, entry.value) for entry in own or shared] or self._constants, role)

    def take_lists_of(self, kind: str, run: Run) -> None:
        """Take the lists that a variable holds only where the type is `kind`, to which `run` was bound."""
        everywhere = set(named_lists(self._run.envs))
        own = [each for each in named_lists(run.envs) if each not in everywhere]
        self._take_lists([each._replace(of=kind) for each in own])

    def _sort(self, entry: Entry) -> None:
        target = self._target_of(entry)
        kind = self._places.type_named(entry.keys[0])
        if entry.role is None:
            self.without_role.add(entry.keys[-1])
            return
        self.roles.add(entry.role)
        if kind and len(entry.keys) == 1 and not self._places.of_alias(entry.keys[0]):
            self._of_type.setdefault(kind, []).append(entry)
        elif target:
            self._of_key.setdefault(target.key, []).append((target, entry))

    def _target_of(self, entry: Entry) -> Target | None:
        keys = [key for key in entry.keys if not language(key)]
        lang = next((key for key in entry.keys if language(key)), None)
        if len(keys) == 2 and self._places.type_named(keys[1]) and not self._places.type_named(keys[0]):
            keys.reverse()
        if len(keys) not in (1, 2):
            return None
        return Target(keys[-1], keys[0] if len(keys) == 2 else None, lang)

    def _take_lists(self, lists: Iterable[Listed]) -> None:
        """Only of tables that are about types or styles: at least one of their names is known."""
        by_table: dict[str, list[Listed]] = {}
        for each in lists:
            by_table.setdefault(each.table, []).append(each)
        for group in by_table.values():
            keys = {key for each in group for key in each.keys}
            has_styles = any(key in self._of_key or self._places.of_alias(key) for key in keys)
            self.promised |= keys if has_styles else set()
            if has_styles or any(self._places.type_named(each.of) for each in group):
                for each in group:
                    self._take_list(each)

    def _take_list(self, listed: Listed) -> None:
        for key in listed.keys:
            kinds = self.kinds_of.setdefault(key, [])
            kinds += [listed.of] if listed.of not in kinds else []
