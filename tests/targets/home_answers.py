"""How well an artifact of the sample model does its job, without decoding."""

from __future__ import annotations

import numpy as np

from slmkit.inference.evaluate import HELD_OUT, read_examples

SENTENCES = 50  # `slmkit eval` judges the whole file


def right_answers(runner, tokenizer) -> int:
    """How many greedy answers are the expected ones, to the letter.

    A greedy answer is the expected one exactly if at each of its tokens the expected next one is
    the best: one pass over prompt and answer decides, where decoding would take a hundred.
    """
    right = 0
    for example in read_examples(HELD_OUT)[:SENTENCES]:
        prompt = tokenizer.prompt_ids(example.prompt)
        answer = [*tokenizer.encode(example.answer, special=False), tokenizer.stop_ids[0]]
        runner.reset()
        best = runner.feed(np.array([*prompt, *answer[:-1]])).argmax(axis=1)
        right += best[len(prompt) - 1 :].tolist() == answer
    return right
