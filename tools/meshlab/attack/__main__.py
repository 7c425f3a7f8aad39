"""`python -m meshlab.attack KIND ...` runs one attacker as a process."""

import json
import time
from typing import Final

from meshlab.attack.base import Run, from_options, parser
from meshlab.attack.floods import FLOODS
from meshlab.attack.fuzz import FUZZ
from meshlab.attack.memory import MEMORY
from meshlab.attack.piles import PILES
from meshlab.attack.relay import RELAYS
from meshlab.attack.strangers import STRANGERS

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
