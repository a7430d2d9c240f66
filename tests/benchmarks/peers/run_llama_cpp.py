"""Prefill and decode speed of a .gguf file in llama.cpp; prints JSON.

python run_llama_cpp.py FILE --prompt 128 --decode 64 --threads 2
"""

from __future__ import annotations

import xllamacpp
from speed import asked, say

options = asked(__doc__)
parameters = xllamacpp.CommonParams()
parameters.model.path = str(options.model)
parameters.n_ctx = options.prompt + options.decode + 1
parameters.n_parallel = 1
parameters.n_gpu_layers = 0
parameters.cpuparams.n_threads = options.threads
parameters.cpuparams_batch.n_threads = options.threads
parameters.warmup = False
parameters.cache_prompt = False
parameters.port = 0  # any that is free
server = xllamacpp.Server(parameters)
question = {
    "prompt": list(range(10, 10 + options.prompt)),
    "n_predict": options.decode,
    "temperature": 0.0,
    "cache_prompt": False,
    "ignore_eos": True,
}
timings = server.handle_completions(question)["timings"]
say(timings["prompt_per_second"], timings["predicted_per_second"])
