"""Write the vectors that Python, Kotlin and Swift share: a folder for each kind of tokenizer.

python sample_apps/vectors/make_vectors.py            all of them again, from the tokenizers here
python sample_apps/vectors/make_vectors.py --train    the tokenizers too
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from slmkit.app.cases import cases_of
from slmkit.app.chat_proof import chat_form
from slmkit.app.json_lines import write_lines
from slmkit.app.tokens import read_tokens
from slmkit.app.vectors import vectors_of
from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.inference.load import ReferenceRunner
from slmkit.parity.execute import follow
from slmkit.parity.golden import Golden, golden_prompts, outputs_of
from tokenizers_of_kinds import KINDS

HERE = Path(__file__).resolve().parent
HOME = "home"
PROMPTS = (
    "Turn off the kitchen lights at 7 pm.",
    "48 minutes timer",
    "close the blinds in the garage at 8:45pm, thanks",
)
CASES = 2  # golden prompts of the sample model's cases


def make_kind(name: str, folder: Path) -> None:
    """Write what an app has of the tokenizer in ``HERE / name``, and vectors, into ``folder``."""
    tokenizer = Tokenizer(HERE / name)
    form = chat_form(tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(form, folder / "chat.json")
    write_lines(read_tokens(HERE / name / "tokenizer.json"), folder / "tokens.json")
    write_lines(vectors_of(name, tokenizer, form), folder / "vectors.json")


def make_home(folder: Path) -> None:
    """The same of the sample model, with greedy answers and cases of its float weights."""
    checkpoint = open_checkpoint(SAMPLE_MODEL)
    runner = ReferenceRunner(checkpoint.shards, checkpoint.spec)
    form = chat_form(checkpoint.tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(form, folder / "chat.json")
    write_lines(read_tokens(SAMPLE_MODEL / "tokenizer.json"), folder / "tokens.json")
    vectors = vectors_of(HOME, checkpoint.tokenizer, form, runner, PROMPTS)
    write_lines(vectors, folder / "vectors.json")
    prompts = golden_prompts(
        checkpoint.tokenizer, checkpoint.spec, runner.context_length, checkpoint.model.parameters
    )[:CASES]
    found = [
        follow(runner, each.ids, len(each.ids), each.decode, lambda *_: None) for each in prompts
    ]
    golden = Golden(
        names=tuple(each.name for each in prompts),
        texts=len(prompts),
        sequences=tuple(ids for ids, _ in found),
        prompt_lengths=tuple(len(each.ids) for each in prompts),
        outputs=outputs_of([logits for _, logits in found]),
    )
    write_lines(cases_of(golden), folder / "cases.json")


def main() -> None:
    """All vectors, in their places."""
    parser = argparse.ArgumentParser(description="Write the vectors of the sample apps.")
    parser.add_argument("--train", action="store_true", help="train the tokenizers again")
    train = parser.parse_args().train
    for name, write in KINDS.items():
        if train:
            write(HERE / name)
        make_kind(name, HERE / name)
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (HERE / HOME).mkdir(exist_ok=True)
        shutil.copyfile(SAMPLE_MODEL / file, HERE / HOME / file)
    make_home(HERE / HOME)


if __name__ == "__main__":
    main()
