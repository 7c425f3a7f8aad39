"""`python -m meshfs.testing.attack KIND ...`: one attacker as a process."""

import json
import time
from typing import Final

from meshfs.testing.attack.base import Run, from_options, parser
from meshfs.testing.attack.floods import FLOODS
from meshfs.testing.attack.fuzz import FUZZ
from meshfs.testing.attack.memory import MEMORY
from meshfs.testing.attack.piles import PILES
from meshfs.testing.attack.relay import RELAYS
from meshfs.testing.attack.strangers import STRANGERS

KINDS: Final[dict[str, Run]] = {**FLOODS, **FUZZ, **MEMORY, **PILES, **RELAYS, **STRANGERS}


def main() -> None:
    options = parser(sorted(KINDS)).parse_args()
    attack = from_options(options)
    started_s = time.process_time()
    KINDS[options.kind](attack)
    attack.counts["cpu_ms"] = int((time.process_time() - started_s) * 1000)
    print(json.dumps(dict(attack.counts), sort_keys=True), flush=True)


if __name__ == "__main__":
    main()
