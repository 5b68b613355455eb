"""Print the captions of a journal for a person: `python scripts/print_captions.py FILE.jsonl`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

for line in Path(sys.argv[1]).read_text("utf-8").splitlines():
    record = json.loads(line)
    print(f"\n── {record['id']}\n{record['caption'] if record['status'] == 'ok' else record['error']['message']}")
print()
