"""Run a hexagon artifact in onnxruntime-genai, as a program of its own: FOLDER IDS COUNT SOC_ID.

Runs in an environment with onnxruntime-genai 0.15.2, without slmkit. Prints the greedy tokens.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai
import onnxruntime_qnn


def on_emulator(folder: Path, soc: str) -> None:
    """Point the config at this computer's QNN library, where a phone has its own."""
    path = folder / "genai_config.json"
    config = json.loads(path.read_text())
    options = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), "soc_model": soc}
    for stage in config["model"]["decoder"]["pipeline"][0].values():
        if "session_options" in stage:
            stage["session_options"]["provider_options"] = [{"QNN": options}]
    path.write_text(json.dumps(config))


def greedy(folder: Path, ids: list[int], count: int, length: int) -> list[int]:
    model = genai.Model(str(folder))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=length, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(np.array(ids))
    tokens = []
    while not generator.is_done() and len(tokens) < count:
        generator.generate_next_token()
        tokens.append(int(generator.get_next_tokens()[0]))
    return tokens


if __name__ == "__main__":
    folder, prompts, count = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
    library = onnxruntime_qnn.get_library_path()
    genai.register_execution_provider_library("QNNExecutionProvider", library)
    on_emulator(folder, sys.argv[4])
    length = json.loads((folder / "genai_config.json").read_text())["model"]["context_length"]
    answers = [greedy(folder, ids, count, length) for ids in prompts]
    sys.stdout.write(f"TOKENS {json.dumps(answers)}\n")
