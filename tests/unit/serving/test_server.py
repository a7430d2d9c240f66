"""The server, by OpenAI's own client and by raw requests, on the sample model."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading

import openai
import pytest

from slmkit.checkpoint.folder import SAMPLE_MODEL
from slmkit.errors import UsageError
from slmkit.inference.load import load
from slmkit.serving import server
from slmkit.serving.requests import ChatRequest

PROMPT = "turn off the kitchen lights at 7 pm"
WHOLE = '{"intent":"light","room":"kitchen","state":"off","time":"19:00"}'
ASKED = [{"role": "user", "content": PROMPT}]
TOKEN = "a secret of the test"


@pytest.fixture(scope="module")
def address():
    yield from running()


def running(*more):
    """The address of a server of the sample model's reference."""
    command = [sys.executable, "-m", "slmkit", "serve", SAMPLE_MODEL, "--port", "0", *more]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr
        line = process.stderr.readline()
        assert "http://127.0.0.1:" in line, line
        yield line.rpartition(" ")[2].strip()
        process.send_signal(2)
        assert process.wait(20) == 0, process.stderr.read()


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as found:
        yield found


def posted(address, body, path="/v1/chat/completions", **headers):
    """The status and the JSON of a raw request."""
    place = address.removeprefix("http://").removesuffix("/v1")
    connection = http.client.HTTPConnection(place, timeout=60)
    sent = {"Content-Type": "application/json", **headers}
    connection.request("POST", path, body if isinstance(body, bytes) else json.dumps(body), sent)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, text.decode()


def test_the_client_gets_the_answer(client):
    found = client.chat.completions.create(model="home", messages=ASKED)
    (choice,) = found.choices
    assert choice.message.content == WHOLE and choice.finish_reason == "stop"
    assert found.usage.completion_tokens > 5
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


def test_the_client_gets_a_stream(client):
    options = {"include_usage": True}
    parts = list(
        client.chat.completions.create(
            model="home", messages=ASKED, stream=True, stream_options=options
        )
    )
    text = "".join(each.choices[0].delta.content or "" for each in parts if each.choices)
    assert text == WHOLE and len(parts) > 5
    assert parts[-2].choices[0].finish_reason == "stop"
    assert parts[-1].usage.completion_tokens > 5


def test_models_are_listed(client):
    assert [each.id for each in client.models.list()] == ["home"]


def test_a_text_goes_on(client):
    found = client.completions.create(model="home", prompt=PROMPT, max_tokens=4)
    expected = load(SAMPLE_MODEL).generate(PROMPT, raw=True, max_tokens=4)
    assert found.choices[0].text == expected and found.choices[0].finish_reason == "length"


def test_settings_reach_the_answer(client):
    found = client.chat.completions.create(
        model="home", messages=ASKED, stop=[',"room"'], max_completion_tokens=30
    )
    assert found.choices[0].message.content == '{"intent":"light"'


def test_a_schema_is_followed(client):
    schema = {"type": "object", "properties": {"a": {"enum": [7]}}, "required": ["a"]}
    form = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": schema | {"additionalProperties": False}},
    }
    found = client.chat.completions.create(model="home", messages=ASKED, response_format=form)
    assert json.loads(found.choices[0].message.content) == {"a": 7}


def test_a_conversation_goes_on_from_what_is_held(client):
    first = client.chat.completions.create(model="home", messages=ASKED)
    said = {"role": "assistant", "content": first.choices[0].message.content}
    more = client.chat.completions.create(
        model="home", messages=[*ASKED, said, {"role": "user", "content": "set a timer"}]
    )
    assert more.usage.prompt_tokens_details.cached_tokens > first.usage.prompt_tokens


def test_requests_at_once_are_answered_one_after_the_other(client):
    found = []

    def ask():
        answer = client.chat.completions.create(model="home", messages=ASKED, max_tokens=4)
        found.append(answer.choices[0].message.content)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 4 and len(set(found)) == 1 and WHOLE.startswith(found[0])


@pytest.mark.parametrize(
    ("status", "change"),
    [
        (404, {"model": "gpt-4o"}),
        (400, {"n": 2}),
        (400, {"logprobs": True}),
        (400, {"messages": []}),
        (400, {"messages": [{"role": "king", "content": "x"}]}),
        (400, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        (400, {"messages": [{"role": "user", "content": "word " * 1000}]}),
        (400, {"messages": [{"role": "user", "content": "half \ud800"}]}),
        (400, {"temperature": -1}),
        (400, {"response_format": {"type": "poem"}}),
        (400, {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 1}}}}),
        (400, {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        (400, {"stop": ["x"] * 99}),
    ],
)
def test_what_cannot_be_done_is_refused(address, status, change):
    found, text = posted(address, {"model": "home", "messages": ASKED, **change})
    assert found == status, text
    assert json.loads(text)["error"]["message"]


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (400, b"{", {}),
        (400, b"[]", {}),
        (413, b" " * ((1 << 20) + 1), {}),
        (415, b"{}", {"Content-Type": "text/plain"}),
        (400, b"{}", {"Host": "evil.example"}),
    ],
)
def test_bad_requests_are_refused(address, status, body, headers):
    assert posted(address, body, **headers)[0] == status


def test_no_file_can_be_asked_for(address):
    assert posted(address, b"{}", "/../../etc/passwd")[0] in (404, 405)


def test_a_client_that_leaves_stops_its_answer(address, client):
    stream = client.chat.completions.create(model="home", messages=ASKED, stream=True)
    next(iter(stream))
    stream.close()
    assert client.chat.completions.create(model="home", messages=ASKED).choices


def test_a_token_is_checked():
    for address in running("--token", TOKEN):
        body = {"model": "home", "messages": ASKED, "max_tokens": 1}
        assert posted(address, body)[0] == 401
        assert posted(address, body, Authorization="Bearer wrong")[0] == 401
        assert posted(address, body, Authorization=f"Bearer {TOKEN}")[0] == 200


def test_others_need_a_token():
    with pytest.raises(UsageError, match="others can reach"):
        server.serve(load(SAMPLE_MODEL), "0.0.0.0", 0, None, print)  # noqa: S104 - it is refused


def test_a_port_in_use_is_refused(address):
    port = int(address.rpartition(":")[2].removesuffix("/v1"))
    with pytest.raises(UsageError, match="cannot be listened at"):
        server.serve(load(SAMPLE_MODEL), "127.0.0.1", port, None, print)


def test_the_newer_name_of_the_system_s_role_is_understood():
    asked = ChatRequest.model_validate(
        {"model": "m", "messages": [{"role": "developer", "content": "be short"}]}
    )
    assert asked.prompt() == [{"role": "system", "content": "be short"}]
