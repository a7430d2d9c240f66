"""Prefill and decode speed of a .litertlm file, by LiteRT-LM's own benchmark; prints JSON.

python run_litert_lm.py FILE --prompt 128 --decode 64 --threads 2
"""

from __future__ import annotations

import litert_lm
from speed import asked, say

options = asked(__doc__)
benchmark = litert_lm.Benchmark(
    str(options.model),
    backend=litert_lm.Backend.CPU(thread_count=options.threads),
    prefill_tokens=options.prompt,
    decode_tokens=options.decode,
    cache_dir=":nocache",
)
found = benchmark.run()
say(found.last_prefill_tokens_per_second, found.last_decode_tokens_per_second)
