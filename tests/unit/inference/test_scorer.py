"""Scores of continuations are those of whole sequences, however much of them is shared."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts import make_job
from slmkit.backend.registry import find_backend
from slmkit.inference import reference_scorer
from slmkit.inference.load import CHUNK, ReferenceRunner
from slmkit.inference.scorer import APART, Continuation, Scorer, branches_of, likelihoods
from slmkit.interpreters.reference import logits
from tiny_models import tiny_config, write_checkpoint

# Float32 sums in another order (a sequence in one product or in several); measured: 1.2e-5.
CLOSE = 1e-4


class Forgetful:
    """A runner that can only start again, like those of graphs with a fixed size."""

    def __init__(self, runner):
        self.runner, self.runtime = runner, runner.runtime
        self.context_length, self.taps = runner.context_length, {}

    def reset(self):
        self.runner.reset()

    def feed(self, ids):
        return self.runner.feed(ids)


def requests_of(vocabulary, seed=3):
    """A long shared beginning, branches off it, several continuations each, of 1 to 4 tokens."""
    random = np.random.default_rng(seed)

    def draw(count):
        return tuple(int(each) for each in random.integers(0, vocabulary, count))

    start = draw(2 * APART)
    contexts = [start + draw(3), start + draw(APART + 2), start, draw(5), start + draw(3)]
    contexts.append(contexts[1] + draw(4))
    return [Continuation(each, draw(count)) for each in contexts for count in (1, 3, 1, 4)]


def by_hand(job, request):
    """Log-softmax of the reference's logits of the whole sequence, in float64."""
    whole = np.asarray(request.context + request.tokens)
    rows = logits(job.codes, job.spec, [whole[:-1]])[0][len(request.context) - 1 :]
    rows = rows.astype(np.float64)
    norms = np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1)) + rows.max(1)
    log = float(sum(rows[at, token] - norms[at] for at, token in enumerate(request.tokens)))
    return log, bool((rows.argmax(1) == np.asarray(request.tokens)).all())


def greedy_requests(job, count=4):
    """Continuations of which every token is the best one."""
    found = []
    for seed in range(count):
        context = tuple(int(i) for i in np.random.default_rng(seed).integers(0, 90, 6))
        ids = list(context)
        for _ in range(3):
            ids.append(int(logits(job.codes, job.spec, [np.asarray(ids)])[0][-1].argmax()))
        found.append(Continuation(context, tuple(ids[6:])))
    return found


def check(job, runner, requests):
    done: list[int] = []
    scorer = Scorer(runner, 7)
    found = likelihoods(scorer, requests, done.append)
    assert sum(done) == len(requests)
    for request, got in zip(requests, found, strict=True):
        log, greedy = by_hand(job, request)
        assert got.log == pytest.approx(log, abs=CLOSE)
        assert got.greedy == greedy
    return scorer


@pytest.mark.parametrize("architecture", ["llama", "granite-hybrid-moe", "lfm2"])
def test_continuations_get_the_log_softmax_of_the_whole_sequence(architecture, tmp_path):
    folder = write_checkpoint(tmp_path / "tiny", tiny_config(architecture))
    job = make_job("ort", folder, tmp_path)
    requests = requests_of(job.spec.vocabulary) + greedy_requests(job)
    runner = ReferenceRunner(job.codes, job.spec)
    rewinding = check(job, runner, requests)
    starting_again = check(job, Forgetful(ReferenceRunner(job.codes, job.spec)), requests)
    assert (
        rewinding.fed
        < starting_again.fed
        < sum(len(each.context) + len(each.tokens) - 1 for each in requests)
    )


@pytest.mark.parametrize("room", [1, 5, 40, 10**6])
@pytest.mark.parametrize("architecture", ["llama", "granite-hybrid-moe"])
def test_batches_of_the_reference_give_the_same(architecture, room, tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path / "tiny", tiny_config(architecture))
    job = make_job("ort", folder, tmp_path)
    monkeypatch.setattr(reference_scorer, "BATCH", room * 4 * job.spec.vocabulary)
    requests = requests_of(job.spec.vocabulary) + greedy_requests(job)
    done: list[int] = []
    runner = ReferenceRunner(job.codes, job.spec)
    found = reference_scorer.reference_likelihoods(runner, requests, done.append)
    assert sum(done) == len(requests)
    for request, got in zip(requests, found, strict=True):
        log, greedy = by_hand(job, request)
        assert got.log == pytest.approx(log, abs=CLOSE)
        assert got.greedy == greedy
    assert reference_scorer.reference_likelihoods(runner, [], done.append) == []


def test_an_artifact_goes_back_to_what_texts_share(tmp_path):
    folder = write_checkpoint(tmp_path / "tiny", tiny_config("granite-hybrid-moe"))
    job = make_job("ort", folder, tmp_path)
    backend = find_backend("ort")
    (tmp_path / "ort").mkdir()
    artifact = backend.emit(job, tmp_path / "ort", lambda done, total: None)
    runner = backend.open_runner(tmp_path / "ort", artifact, "exact")
    check(job, runner, requests_of(job.spec.vocabulary) + greedy_requests(job))


def test_answers_of_one_token_need_the_context_once():
    class Counting:
        runtime, context_length, taps, fed = "a test", 99, {}, 0

        def reset(self):
            pass

        def feed(self, ids):
            self.fed += len(ids)
            return np.eye(9, dtype=np.float32)[np.asarray(ids)]

    runner = Counting()
    asked = [Continuation((1, 2, 3), (answer,)) for answer in (4, 5, 6, 3)]
    found = likelihoods(Scorer(runner, CHUNK), asked, lambda done: None)
    assert runner.fed == 3
    assert [each.greedy for each in found] == [False, False, False, True]


def test_branches_are_where_later_sequences_leave():
    sequences = [(1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 6), (1, 7), (8,)]
    assert branches_of(sequences) == [(0, 1, 2, 3), (0, 1, 2), (0, 1), (0,), (0,)]
    assert branches_of([]) == []


def test_a_sequence_needs_a_token(tmp_path):
    folder = write_checkpoint(tmp_path / "tiny", tiny_config("llama"))
    job = make_job("ort", folder, tmp_path)
    with pytest.raises(ValueError, match="needs a token"):
        Scorer(ReferenceRunner(job.codes, job.spec), 4).begin([])
