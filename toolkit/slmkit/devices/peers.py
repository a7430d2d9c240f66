"""Other people's models beside a bundle: files of llama.cpp, folders of onnxruntime-genai."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from slmkit.errors import BackendError, MissingPackageError, UsageError
from slmkit.inference.speed import Timing
from slmkit.parity.golden import Ids

CONFIG = "genai_config.json"
GGUF = b"GGUF"  # the first bytes of a file of llama.cpp


class PeerModel(Protocol):
    """A peer's model, loaded."""

    runtime: str

    def answer(self, ids: Ids, count: int) -> Timing:
        """Read a prompt into an empty cache and decode ``count`` tokens, greedily."""
        ...


@dataclass(frozen=True)
class PeerKind:
    """A runtime of peers: the packages that bring it, the first of which is advised."""

    name: str
    packages: tuple[tuple[str, str], ...]  # (module, package on PyPI)

    @property
    def module(self) -> str | None:
        """The module of a package that is installed."""
        return next((module for module, _ in self.packages if find_spec(module)), None)


LLAMA_CPP = PeerKind("llama.cpp", (("xllamacpp", "xllamacpp"), ("llama_cpp", "llama-cpp-python")))
GENAI = PeerKind("onnxruntime-genai", (("onnxruntime_genai", "onnxruntime-genai"),))


def peer_kind(path: Path) -> PeerKind:
    """The runtime of a peer's file or folder.

    Raises UsageError for another thing, MissingPackageError if the runtime is not installed.
    """
    if path.is_file() and _begins(path, GGUF):
        kind = LLAMA_CPP
    elif (path / CONFIG).is_file():
        kind = GENAI
    else:
        raise UsageError(
            f"{path} is no model of llama.cpp or onnxruntime-genai",
            f"--against wants a .gguf file, or a folder with a {CONFIG}",
        )
    if kind.module is None:
        raise MissingPackageError(
            f"{path} needs {kind.name}, which is not installed",
            f"pip install {kind.packages[0][1]}",
        )
    return kind


def open_peer(path: Path, threads: int, context: int) -> PeerModel:
    """Load a peer's model. Raises BackendError with the runtime's own message."""
    kind = peer_kind(path)
    try:
        if kind is GENAI:
            return _Genai(path, threads)
        if kind.module == "xllamacpp":
            return _Xllamacpp(path, threads, context)
        return _LlamaCppPython(path, threads, context)
    except (RuntimeError, ValueError, OSError) as error:
        said = (str(error).splitlines() or ["it says nothing"])[0]
        raise BackendError(
            f"{kind.name} cannot load {path}: {said}", "leave out --against, or give another file"
        ) from None


class _Genai:
    """A folder of onnxruntime-genai."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime_genai as genai

        self.library = genai
        self.runtime = f"onnxruntime-genai {version('onnxruntime-genai')}, CPU"
        config = genai.Config(str(folder))
        config.clear_providers()
        options = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self.model = genai.Model(config)

    def answer(self, ids: Ids, count: int) -> Timing:
        """As ``PeerModel.answer``."""
        parameters = self.library.GeneratorParams(self.model)
        length = len(ids) + count + 1
        parameters.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = self.library.Generator(self.model, parameters)
        begin = time.perf_counter()
        generator.append_tokens(np.asarray(ids, dtype=np.int32))
        generator.generate_next_token()
        read = time.perf_counter()
        for _ in range(count):
            generator.generate_next_token()
        return Timing(len(ids), read - begin, count, time.perf_counter() - read)


class _Xllamacpp:
    """A .gguf file in xllamacpp, whose server measures the times itself."""

    def __init__(self, path: Path, threads: int, context: int) -> None:
        import xllamacpp

        self.runtime = f"llama.cpp of xllamacpp {version('xllamacpp')}, CPU"
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = context
        parameters.n_parallel = 1
        parameters.n_gpu_layers = 0
        parameters.cpuparams.n_threads = threads
        parameters.cpuparams_batch.n_threads = threads
        parameters.warmup = False
        parameters.cache_prompt = False
        parameters.cache_ram_mib = 0
        parameters.port = 0  # any that is free
        parameters.verbosity = 0
        self.server = xllamacpp.Server(parameters)

    def answer(self, ids: Ids, count: int) -> Timing:
        """As ``PeerModel.answer``."""
        asked = {
            "prompt": [int(token) for token in ids],
            "n_predict": count + 1,
            "temperature": 0.0,
            "cache_prompt": False,
            "ignore_eos": True,
        }
        said: dict[str, Any] = self.server.handle_completions(asked)
        times = said.get("timings")
        if times is None or times["predicted_n"] < 2:
            raise BackendError(
                f"llama.cpp did not answer: {json.dumps(said)[:200]}",
                "its tokens may be others: give a file of the same model",
            )
        # Its clock of decoding begins when the prompt's token is there, which it counts too.
        read, decoded = times["prompt_ms"] / 1e3, times["predicted_n"] - 1
        return Timing(times["prompt_n"], read, decoded, times["predicted_ms"] / 1e3)


class _LlamaCppPython:
    """A .gguf file in llama-cpp-python."""

    def __init__(self, path: Path, threads: int, context: int) -> None:
        import llama_cpp

        self.runtime = f"llama.cpp of llama-cpp-python {version('llama-cpp-python')}, CPU"
        self.model = llama_cpp.Llama(
            model_path=str(path),
            n_ctx=context,
            n_threads=threads,
            n_threads_batch=threads,
            n_gpu_layers=0,
            verbose=False,
        )

    def answer(self, ids: Ids, count: int) -> Timing:
        """As ``PeerModel.answer``."""
        self.model.reset()
        begin = time.perf_counter()
        self.model.eval([int(token) for token in ids])
        token = self.model.sample(temp=0.0)
        read = time.perf_counter()
        for _ in range(count):
            self.model.eval([token])
            token = self.model.sample(temp=0.0)
        return Timing(len(ids), read - begin, count, time.perf_counter() - read)


def _begins(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic
