"""One of N equal parts of a run, for machines that share no journal. It knows nothing of what is divided."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from omnicap_cli.errors import OptionError


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` (from 0) of `num_shards`. Everything belongs to one part, so all parts are the whole."""

    index: int
    num_shards: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `I/N`. Raises OptionError."""
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if match is None or int(match[1]) >= int(match[2]):
            raise OptionError("--shard", text, "is no part; give I/N, as in 0/8 to 7/8")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.num_shards}"

    def takes_name(self, name: str) -> bool:
        """Whether what is called so belongs here. A name keeps its shard, whatever else comes or goes."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.num_shards == self.index

    def takes_number(self, number: int) -> bool:
        """Whether the `number`th of a row (from 0) belongs here: the parts differ by one at most."""
        return number % self.num_shards == self.index
