"""Sets of training data in proportions: which records of each an epoch takes. It opens no data.

A mixture file is YAML or JSON, the `META` list of the published system: `path`, `ratio` and `type` of each set.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from msgspec import Meta

from omnicap_cli.errors import OptionError, UsageError
from omnicap_cli.training.config.read_config import read_fields, read_file
from omnicap_cli.training.config.typed_values import Text, check_fields

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_KEYS: Final = ("path", "ratio", "type")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A file of records; `ratio` of them make an epoch: below 1 a random part, above 1 some or all several times.

    `type` is a word of mixture files, without effect.
    """

    path: Path
    ratio: Annotated[float, Meta(gt=0, le=1000, description="is no ratio; give more than 0, up to 1,000")] = 1.0
    name: Text | None = None
    type: Text | None = None

    def __post_init__(self) -> None:
        check_fields(self, str(self.path))

    @property
    def label(self) -> str:
        """What it is called, and what decides which part is taken: its name, else its path."""
        return self.name or str(self.path)


def read_mixture(path: Path, warn: Callable[[str], None] = lambda _: None) -> tuple[DataSet, ...]:
    """The sets of a mixture file; `warn` gets what is passed over. Relative paths count from the current folder.

    Raises OptionError if it can't be read or a value is wrong, UsageError if it holds no mixture.
    """
    content = read_file(path, "data.mixture")
    entries = content.pop("META", None)
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{path} has no list META", hint="It lists the sets, each with path and ratio.")
    if content:
        warn(f"{path}: passed over {', '.join(map(str, content))}")
    sets = [_read_entry(entry, f"{path}: META[{index}]", warn) for index, entry in enumerate(entries)]
    return tuple(_distinct(sets))


def num_chosen(num_records: int, ratio: float) -> int:
    """How many records an epoch takes of `num_records`: rounded half up, at least 1 if there are any."""
    # in the decimals that were written: 0.15 as a float is a little less, and half of the time the wrong way
    exact = Fraction(repr(float(ratio))) * num_records
    return max(int(exact + Fraction(1, 2)), min(1, num_records))


def choose_records(num_records: int, ratio: float, seed: int, label: str) -> npt.NDArray[np.int64]:
    """Which records an epoch takes, in order: all as often as `ratio` has wholes, then a random part of them, sorted.

    The part hangs on `seed` and `label`, and is the same on every machine.
    """
    import numpy as np

    num_taken = num_chosen(num_records, ratio)
    if not num_taken:
        return np.empty(0, np.int64)
    num_repeats, num_more = divmod(num_taken, num_records)
    repeated = np.tile(np.arange(num_records, dtype=np.int64), num_repeats)
    if not num_more:
        return repeated
    digest = hashlib.sha256(f"{seed}\0{label}".encode("utf-8", "surrogatepass")).digest()
    # the raw stream: numpy keeps it the same over versions, which it doesn't promise for what it makes of it
    lots = np.random.PCG64(int.from_bytes(digest, "big")).random_raw(num_records)
    highest = np.partition(lots, num_more - 1)[num_more - 1]
    part = np.flatnonzero(lots <= highest)[:num_more]  # also where several have drawn the highest
    return np.concatenate([repeated, part])


def _read_entry(entry: Any, place: str, warn: Callable[[str], None]) -> DataSet:
    if not isinstance(entry, Mapping):
        raise OptionError(place, entry, "is no set; give it a path and a ratio")
    unknown = [str(key) for key in entry if key not in _KEYS]
    if unknown:
        warn(f"{place}: passed over {', '.join(unknown)}")
    given = {key: value for key, value in entry.items() if key in _KEYS and value is not None}
    return read_fields(DataSet, given, place)


def _distinct(sets: list[DataSet]) -> list[DataSet]:
    """A file that is listed again gets a name of its own, and with it another part of its records."""
    seen: Counter[Path] = Counter()
    named = []
    for each in sets:
        seen[each.path] += 1
        name = f"{each.path} ({seen[each.path]})" if seen[each.path] > 1 else None
        named.append(DataSet(path=each.path, ratio=each.ratio, name=name, type=each.type))
    return named
