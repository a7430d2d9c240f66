"""lm-evaluation-harness on the sample model: the reference, and an artifact in its runtime."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from math import exp, log

import numpy as np
import pytest

import slmkit
from harness_tasks import ROWS, rows, write_datasets, write_tasks
from slmkit.backend import registry
from slmkit.checkpoint.folder import SAMPLE_MODEL
from slmkit.errors import MissingPackageError, SlmkitError, UsageError
from slmkit.harness.run import TaskRequest, run_tasks
from slmkit.inference.load import ReferenceRunner, load
from slmkit.system.progress import Silent

pytest.importorskip("lm_eval", reason='lm-eval is not installed: pip install ".[eval]"')

# Sums in another order: a continuation after its cached context, or the whole in one product.
CLOSE = 1e-4
REFERENCE, ARTIFACT = "reference", "ort"
SHORTER = 40  # tokens of a context that requests do not fit into


@pytest.fixture(scope="module", params=[REFERENCE, ARTIFACT])
def session(request, tmp_path_factory):
    """The sample model on the reference, and as a built artifact in ONNX Runtime."""
    if request.param == REFERENCE:
        return load(SAMPLE_MODEL)
    out = tmp_path_factory.mktemp("harness")
    bundle = slmkit.build(
        SAMPLE_MODEL, target="android", recipe="int8", artifacts=["ort"], out=out, cache=False
    )
    return bundle.load("ort")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def run(session, folder, *names, **more):
    return run_tasks(session, TaskRequest(names, folder, **more), Silent())


def score(report, task, metric):
    (found,) = [each for each in report.scores if (each.task, each.metric) == (task, metric)]
    return found


def log_softmax(session, ids):
    """Of each token but the first, by the model's logits of the whole sequence. (T - 1,)"""
    logits = session.logits(ids[:-1]).astype(np.float64)
    norms = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    return logits[np.arange(len(ids) - 1), ids[1:]] - norms


def answer_log(session, prompt, answer):
    ids = session.tokenizer.encode(prompt + answer)
    start = len(session.tokenizer.encode(prompt))
    return float(log_softmax(session, ids)[start - 1 :].sum())


def test_choices_are_those_of_the_model_s_own_log_softmax(session, tasks):
    report = run(session, tasks, "pick")
    logs = [[answer_log(session, row["prompt"], each) for each in row["choices"]] for row in rows()]
    best = [int(np.argmax(each)) == row["label"] for each, row in zip(logs, rows(), strict=True)]
    assert report.right["pick: acc"] == tuple(best)
    found = score(report, "pick", "acc")
    assert found.value == pytest.approx(np.mean(best))
    assert found.stderr == pytest.approx(np.std(best, ddof=1) / ROWS**0.5)
    assert (found.samples, found.few_shot, found.higher_is_better) == (ROWS, 0, True)
    per_letter = [
        int(np.argmax(np.divide(each, [len(choice) for choice in row["choices"]]))) == row["label"]
        for each, row in zip(logs, rows(), strict=True)
    ]
    assert score(report, "pick", "acc_norm").value == pytest.approx(np.mean(per_letter))


def test_log_likelihoods_are_the_log_softmax_computed_by_hand(session):
    from lm_eval.api.instance import Instance

    from slmkit.harness.model import RunnerModel

    model = RunnerModel(session.runner, session.tokenizer, session.chunk, "home", Silent())
    pairs = [(row["prompt"], each) for row in rows() for each in row["choices"]]
    asked = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    found = model.loglikelihood(asked)
    expected = [answer_log(session, *pair) for pair in pairs]
    np.testing.assert_allclose([each[0] for each in found], expected, atol=CLOSE)
    total = sum(len(session.tokenizer.encode("".join(pair))) for pair in pairs)
    if not isinstance(session.runner, ReferenceRunner):  # which computes batches of its own
        assert 0 < model.scorer.fed < 0.8 * total  # prompts are computed once, not for each answer


def test_texts_are_read_token_by_token_from_the_prefix_on(session, tasks):
    report = run(session, tasks, "read")
    texts = [f"{row['prompt']} {row['answer']}" for row in rows()]
    tokenizer = session.tokenizer
    prefix = tokenizer.token_id("bos_token")
    if prefix is None:
        prefix = tokenizer.token_id("eos_token")
    logs = [log_softmax(session, [prefix, *tokenizer.encode(text)]).sum() for text in texts]
    letters = sum(len(text.encode()) for text in texts)
    bits = -sum(logs) / letters / log(2)
    assert score(report, "read", "bits_per_byte").value == pytest.approx(bits, rel=CLOSE)
    assert score(report, "read", "bits_per_byte").higher_is_better is False
    words = sum(len(text.split()) for text in texts)
    perplexity = exp(-sum(logs) / words)
    assert score(report, "read", "word_perplexity").value == pytest.approx(perplexity, rel=1e-3)
    assert report.right == {}


def test_answers_in_the_chat_template_are_those_of_the_session(session, tasks):
    report = run(session, tasks, "say", chat=True)
    expected = [session.generate(row["prompt"], max_tokens=64) == row["answer"] for row in rows()]
    assert report.right["say: exact_match"] == tuple(expected)
    assert sum(expected) >= ROWS - 1  # the sample model knows its commands
    assert score(report, "say", "exact_match").value == pytest.approx(np.mean(expected))


def test_stop_texts_end_an_answer_and_are_no_part_of_it(session, tmp_path):
    kwargs = {"generation_kwargs": {"until": ['",'], "max_gen_toks": 64}}
    first = {"doc_to_target": "{{answer.split('\",')[0]}}", **kwargs}
    report = run(session, write_tasks(tmp_path, say=first), "say", chat=True)
    assert sum(report.right["say: exact_match"]) >= ROWS - 1


def test_requests_beyond_the_context_lose_their_beginning(session, tmp_path, monkeypatch):
    monkeypatch.setattr(session.runner, "context_length", SHORTER)
    text = {"pick": {"doc_to_text": "{{prompt * 4}}"}}
    report = run(session, write_tasks(tmp_path, **text), "pick")
    logs = []
    for row in rows():
        for each in row["choices"]:
            whole = session.tokenizer.encode(row["prompt"] * 4 + each)
            count = len(whole) - len(session.tokenizer.encode(row["prompt"] * 4))
            logs.append(float(log_softmax(session, whole[-SHORTER - 1 :])[-count:].sum()))
    best = np.asarray(logs).reshape(ROWS, 3).argmax(1)
    assert report.right["pick: acc"] == tuple(
        bool(number == row["label"]) for number, row in zip(best, rows(), strict=True)
    )
    assert report.truncated > 0


def test_an_answer_that_leaves_no_room_for_the_question_is_refused(session, tasks, monkeypatch):
    monkeypatch.setattr(session.runner, "context_length", 64)
    with pytest.raises(SlmkitError, match="answers of 64 tokens, the context is 64"):
        run(session, tasks, "say")


def test_limit_and_few_shot_are_the_harness_s(session, tasks):
    report = run(session, tasks, "pick", limit=3, few_shot=2)
    assert (score(report, "pick", "acc").samples, score(report, "pick", "acc").few_shot) == (3, 2)
    alone = run(session, tasks, "pick", limit=3)
    assert score(alone, "pick", "acc").few_shot == 0


def test_the_harness_s_own_tasks_read_data_sets_from_a_folder(tmp_path):
    data = write_datasets(tmp_path / "data")
    names = ("hellaswag", "mmlu_anatomy", "gsm8k", "wikitext")
    report = run(load(SAMPLE_MODEL), None, *names, data=data)
    found = {(each.task, each.metric): each.samples for each in report.scores}
    assert found[("hellaswag", "acc_norm")] == 2
    assert found[("mmlu_anatomy", "acc")] == 3
    assert found[("gsm8k", "exact_match")] == 2
    assert found[("wikitext", "word_perplexity")] == 1
    assert {each.filter for each in report.scores if each.task == "gsm8k"} == {
        "strict-match",
        "flexible-extract",
    }
    assert len(report.right["gsm8k: exact_match, strict-match"]) == 2


def test_data_that_was_saved_by_the_library_is_read(tasks, tmp_path):
    import datasets

    saved = datasets.DatasetDict({"test": datasets.Dataset.from_list(rows())})
    saved.save_to_disk(tmp_path / "data" / "commands")
    place = {"pick": {"dataset_path": "commands", "dataset_kwargs": None}}
    folder = write_tasks(tmp_path / "tasks", **place)
    reference = load(SAMPLE_MODEL)
    report = run(reference, folder, "pick", data=tmp_path / "data")
    assert report.right == run(reference, tasks, "pick").right


class Recorder(BaseHTTPRequestHandler):
    """A server that notes every request."""

    seen: list[str]

    def do_GET(self):
        self.seen.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(rows()[0]).encode())

    do_HEAD = do_GET  # noqa: N815 - the base class's name

    def log_message(self, *words):
        pass


@pytest.fixture
def server():
    """A local server's address, and the requests that reached it."""
    seen: list[str] = []
    handler = type("Handler", (Recorder,), {"seen": seen})
    found = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{found.server_address[1]}/rows.jsonl", seen
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.mark.parametrize("form", ["file", "folder", "option", "card"])
def test_no_address_is_ever_asked(form, server, tmp_path):
    address, seen = server
    data = tmp_path / "data" / "commands"
    data.mkdir(parents=True)
    files = {"test": address}
    forms = {
        "file": {"dataset_kwargs": {"data_files": files}},
        "folder": {"dataset_path": address, "dataset_kwargs": None},
        "option": {"dataset_path": "commands", "dataset_kwargs": {"data_files": files}},
        "card": {"dataset_path": "commands", "dataset_kwargs": None},
    }
    if form == "card":
        card = f'configs: [{{config_name: default, data_files: "{address}"}}]'
        (data / "README.md").write_text(f"---\n{card}\n---\n")
        (data / "test.jsonl").write_text(json.dumps(rows()[0]) + "\n")
    folder = write_tasks(tmp_path / "tasks", pick=forms[form])
    with pytest.raises(SlmkitError) as caught:
        run(load(SAMPLE_MODEL), folder, "pick", data=tmp_path / "data")
    assert "nothing is fetched" in caught.value.hint
    assert seen == []


TRAP = "import pathlib; pathlib.Path(r'{}').touch()\ndef clean(docs): return docs\n"


def test_code_of_a_task_folder_runs_only_if_it_is_allowed(tmp_path):
    folder, trap = write_tasks(tmp_path / "tasks"), tmp_path / "trapped"
    (folder / "tools.py").write_text(TRAP.format(trap))
    with (folder / "pick.yaml").open("a") as file:
        file.write("process_docs: !function tools.clean\n")
    with pytest.raises(UsageError, match="would run Python code") as caught:
        run(load(SAMPLE_MODEL), folder, "pick")
    assert "--allow-task-code" in caught.value.hint
    assert not trap.exists()
    run(load(SAMPLE_MODEL), folder, "pick", allow_code=True, limit=1)
    assert trap.exists()


def test_templates_of_tasks_are_rendered_in_a_sandbox(tmp_path):
    trap = tmp_path / "trapped"
    way_out = "{{ cycler.__init__.__globals__.os.mkdir('" + str(trap) + "') }}"
    folder = write_tasks(tmp_path / "tasks", pick={"doc_to_text": way_out})
    with pytest.raises(SlmkitError, match="SecurityError"):
        run(load(SAMPLE_MODEL), folder, "pick")
    assert not trap.exists()


def test_metrics_that_are_programs_of_others_stay_off(tmp_path):
    trap, metric = tmp_path / "trapped", tmp_path / "evil" / "evil.py"
    metric.parent.mkdir()
    metric.write_text(TRAP.format(trap))
    folder = write_tasks(tmp_path / "tasks", say={"metric_list": [{"metric": str(metric)}]})
    with pytest.raises(SlmkitError, match="is not one of lm-evaluation-harness's own"):
        run(load(SAMPLE_MODEL), folder, "say")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unsafe_code": True}, "marked as unsafe"),
        ({"dataset_path": "pandas"}, "data set pandas is not among the local folders"),
        ({"dataset_kwargs": {"data_files": "none.jsonl"}}, "data file none.jsonl is not there"),
        ({"dataset_kwargs": {}}, "names no file"),
        ({"doc_to_text": "{{ nothing }}"}, "'nothing' is undefined"),
        ({"test_split": "exam"}, "exam"),
    ],
)
def test_a_task_that_cannot_run_is_one_sentence(change, message, tmp_path):
    folder = write_tasks(tmp_path, pick=change)
    with pytest.raises(SlmkitError, match=message) as caught:
        run(load(SAMPLE_MODEL), folder, "pick")
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_afterwards_the_libraries_are_as_they_were(tasks, capfd):
    import datasets
    import evaluate
    import huggingface_hub.constants
    import lm_eval.utils

    def state():
        return (
            datasets.load_dataset,
            datasets.are_progress_bars_disabled(),
            evaluate.load,
            lm_eval.utils.env,
            huggingface_hub.constants.HF_HUB_OFFLINE,
            dict(os.environ),
        )

    before = state()
    run(load(SAMPLE_MODEL), tasks, "pick", limit=1)
    with pytest.raises(SlmkitError):
        run(load(SAMPLE_MODEL), tasks, "pik")
    assert state() == before
    assert capfd.readouterr() == ("", "")  # no bars, no words of the harness


def test_an_unknown_task_is_answered_with_those_that_exist(tasks):
    with pytest.raises(UsageError, match="there is no task 'pik'") as caught:
        run(load(SAMPLE_MODEL), tasks, "pik")
    assert "pick" in caught.value.hint


def test_without_the_package_the_command_that_installs_it_is_named(tasks, monkeypatch, from_index):
    monkeypatch.setattr(registry, "_version", lambda name: None)
    with pytest.raises(MissingPackageError) as caught:
        run(load(SAMPLE_MODEL), tasks, "pick")
    assert 'pip install "slmkit[eval]"' in caught.value.hint
