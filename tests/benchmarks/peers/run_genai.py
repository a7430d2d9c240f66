"""Prefill and decode speed of a folder of onnxruntime-genai; prints JSON.

python run_genai.py FOLDER --prompt 128 --decode 64 --threads 2
"""

from __future__ import annotations

import json
import time

import numpy as np
import onnxruntime_genai as genai
from speed import asked, say

options = asked(__doc__)
config = genai.Config(str(options.model))
config.clear_providers()
session = {"intra_op_num_threads": options.threads}
config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
model = genai.Model(config)
parameters = genai.GeneratorParams(model)
length = options.prompt + options.decode + 1
parameters.set_search_options(max_length=length, min_length=length, do_sample=False)
generator = genai.Generator(model, parameters)
begun = time.perf_counter()
generator.append_tokens(np.arange(10, 10 + options.prompt, dtype=np.int32))
generator.generate_next_token()
read = time.perf_counter()
for _ in range(options.decode):
    generator.generate_next_token()
ended = time.perf_counter()
say(options.prompt / (read - begun), options.decode / (ended - read))
