"""The .litertlm in the unmodified litert-lm runtime: the same greedy answers as the reference's."""

from __future__ import annotations

import json
from dataclasses import replace

import jinja2.sandbox
import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from artifacts import emitted, token_snr_db
from litert_artifacts import KERNELS, litert_job
from slmkit.backend.interface import Generation, Prefilling
from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit.errors import BackendError
from slmkit.inference.evaluate import HELD_OUT, read_examples
from slmkit.interpreters.reference import Cache, Rounded, logits
from slmkit_litert import writer
from slmkit_litert.backend import open_runner
from slmkit_litert.litertlm import add_missing_tokens, runtime_metadata
from slmkit_litert.prompts import TEXT_OF_PARTS
from slmkit_litert.verify.delegation import UNKNOWN_REASON
from tiny_tokenizers import KINDS, PIECES, write_byte_fallback

SENTENCES = 20
TURNS = "<bos><|user|>{}<|end|><|assistant|>"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    job = litert_job(SAMPLE_MODEL, folder, context_length=256, prefill_chunk=128)
    return job, emitted(job, folder / "litert"), folder / "litert" / "model.litertlm"


@pytest.fixture(scope="module")
def engine(home):
    litert_lm = pytest.importorskip("litert_lm", reason="litert-lm has no wheel for this machine")
    found = litert_lm.Engine(
        str(home[2]), backend=litert_lm.Backend.CPU(thread_count=1), cache_dir=":nocache"
    )
    yield found
    found.close()


def sampler():
    from litert_lm import interfaces

    return interfaces.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0, seed=0)


def reference_answer(job, tokenizer, prompt: str) -> str:
    """Greedy tokens of the reference on the codes, to the stop token."""
    caches, answer = [Cache()], list[int]()
    ids = np.asarray(tokenizer.prompt_ids(prompt))
    while len(answer) < 64:
        best = int(logits(job.codes, job.spec, [ids], caches)[0][-1].argmax())
        if best in tokenizer.stop_ids:
            break
        answer.append(best)
        ids = np.asarray([best])
    return tokenizer.decode(answer)


def test_litert_lm_answers_as_the_reference(home, engine):
    job, _, _ = home
    tokenizer = open_checkpoint(SAMPLE_MODEL).tokenizer
    same = 0
    for example in read_examples(HELD_OUT)[:SENTENCES]:
        session = engine.create_session(
            apply_prompt_template=False, max_output_tokens=64, sampler_config=sampler()
        )
        session.run_prefill([TURNS.format(example.prompt)])
        answer = session.run_decode().texts[0]
        session.close()
        same += answer == reference_answer(job, tokenizer, example.prompt)
    assert same == SENTENCES


def test_a_conversation_goes_through_the_checkpoint_s_template(engine):
    for example in read_examples(HELD_OUT)[:SENTENCES]:
        conversation = engine.create_conversation(sampler_config=sampler())
        rendered = conversation.render_message_to_string(
            {"role": "user", "content": example.prompt}
        )
        assert rendered == TURNS.format(example.prompt)
        said = conversation.send_message(example.prompt)
        text = said["content"][0]["text"] if isinstance(said, dict) else str(said)
        conversation.close()
        assert text == example.answer


def test_xnnpack_takes_all_the_arithmetic(home):
    _, artifact, _ = home
    for each in artifact.facts["delegation"].values():
        assert each["share"] == 1
        assert "FULLY_CONNECTED" not in each["outside"]
        assert each["why"].keys() == each["outside"].keys()
        assert UNKNOWN_REASON not in each["why"].values()
    assert "XNNPACK has no kernel that writes into a cache" in artifact.report.lines[0]


def test_metadata_samples_as_the_author_says(home):
    tokens = home[0].tokens
    author = Generation(True, 0.7, 0.8, 20, 1.3, True)
    said = {
        tokens.generation: (1, 1.0, 1.0),
        author: (20, 0.8, 0.7),
        replace(author, top_k=0): (1024, 0.8, 0.7),
        replace(author, do_sample=False): (1, 1.0, 1.0),
    }
    for generation, expected in said.items():
        found = runtime_metadata(replace(tokens, generation=generation), 256, None).sampler_params
        assert found.type == found.TOP_P
        assert (found.k, found.p, found.temperature) == pytest.approx(expected)


def test_metadata_tells_the_runtime_where_to_start_and_stop(home):
    job, _, _ = home
    found = runtime_metadata(job.tokens, 256, 1)
    assert list(found.start_token.token_ids.ids) == [1]
    assert not runtime_metadata(job.tokens, 256, None).HasField("start_token")
    assert [list(each.token_ids.ids) for each in found.stop_tokens] == [[2]]
    assert found.max_num_tokens == 256


@given(st.lists(st.one_of(st.text(max_size=9), st.lists(st.text(max_size=9), max_size=3))))
def test_the_prelude_changes_no_template_s_words(contents):
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    parts = [
        {"role": "user", "content": each}
        if isinstance(each, str)
        else {"role": "user", "content": [{"type": "text", "text": text} for text in each]}
        for each in contents
    ]
    joined = "".join(
        f"<user>{each if isinstance(each, str) else ''.join(each)}" for each in contents
    )
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment()
    rendered = environment.from_string(TEXT_OF_PARTS + template).render(messages=parts)
    assert rendered == joined


@pytest.mark.parametrize("kind", KINDS)
def test_every_id_of_the_model_has_a_token(tmp_path, kind):
    KINDS[kind](tmp_path)
    text = (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    before = tokenizers.Tokenizer.from_str(text)
    after = tokenizers.Tokenizer.from_str(add_missing_tokens(text, before.get_vocab_size() + 5))
    assert after.get_vocab_size() == before.get_vocab_size() + 5
    assert after.encode("turn off the lights").ids == before.encode("turn off the lights").ids
    assert json.loads(add_missing_tokens(text, 3)) == json.loads(text)


@pytest.fixture
def with_sentencepiece(tiny):
    """A tiny checkpoint with a SentencePiece model, and that model."""
    folder = tiny("llama", vocab_size=PIECES)
    write_byte_fallback(folder)
    return folder, sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))


@pytest.mark.parametrize("name", ["model.litertlm", "model.task"])
def test_sentencepiece_bundles_answer_as_the_reference(with_sentencepiece, tmp_path, name):
    litert_lm = pytest.importorskip("litert_lm", reason="litert-lm has no wheel for this machine")
    folder, pieces = with_sentencepiece
    options = {"tokenizer": "sentencepiece", "task": True}
    job = litert_job(folder, tmp_path, "int8-per-channel", options=options)
    artifact = emitted(job, tmp_path / "litert")
    assert artifact.facts["bundles"] == ["model.litertlm", "model.task"]
    prompt = "turn off the kitchen lights"
    engine = litert_lm.Engine(
        str(tmp_path / "litert" / name),
        backend=litert_lm.Backend.CPU(thread_count=1),
        cache_dir=":nocache",
    )
    assert list(engine.tokenize(prompt)) == pieces.encode(prompt)
    session = engine.create_session(
        apply_prompt_template=False, max_output_tokens=8, sampler_config=sampler()
    )
    session.run_prefill([prompt])
    answer = session.run_decode().texts[0]
    session.close()
    engine.close()
    begin = [1] if name == "model.task" else []  # the chat template has none, so it writes none
    caches, ids = [Cache()], np.array([*begin, *pieces.encode(prompt)])
    expected: list[int] = []
    while len(expected) < 8:
        best = int(logits(job.codes, job.spec, [ids], caches, Rounded)[0][-1].argmax())
        expected.append(best)
        ids = np.array([best])
    assert answer == pieces.decode(expected)


def test_a_checkpoint_without_sentencepiece_says_so(tiny, tmp_path):
    job = litert_job(tiny("llama"), tmp_path, options={"task": True})
    with pytest.raises(BackendError, match=r"has no tokenizer\.model"):
        emitted(job, tmp_path / "litert")


def test_arithmetic_outside_of_xnnpack_is_an_error_where_it_is_required(tiny, tmp_path):
    job = litert_job(tiny("llama"), tmp_path, options={"require": "delegation"})
    emitted(job, tmp_path / "litert")
    report = {"decode": {"share": 0.75, "outside": {"FULLY_CONNECTED": 2}}}
    with pytest.raises(BackendError, match=r"decode: 25\.0% .* \(FULLY_CONNECTED\)"):
        writer._check_delegation(job, report)


def test_a_prompt_read_as_an_app_reads_it_leaves_the_same_cache(home):
    """``feed`` computes every logit by decoding; ``prefill`` reads chunks, and the last token."""
    job, artifact, path = home
    runner = open_runner(path.parent, artifact, "shipped")
    assert isinstance(runner, Prefilling)
    for length in (1, 2, 40, 130):
        ids = np.random.default_rng(length).integers(3, job.spec.vocabulary, length)
        runner.reset()
        fed = [runner.feed(ids)[-1], runner.feed(ids[:1])[-1]]
        runner.reset()
        read = [runner.prefill(ids), runner.feed(ids[:1])[-1]]
        assert token_snr_db(np.stack(fed), np.stack(read)).min() > KERNELS
    runner.reset()
    with pytest.raises(BackendError, match="passes the artifact's context"):
        runner.prefill(np.zeros(257, dtype=np.int64))
