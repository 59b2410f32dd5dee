"""What the server says of itself: models, health, readiness, metrics, its description."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from running import Running, ScriptedEngine, input_audio, running

from soundwave.errors import ConfigurationError
from soundwave.serving.options import ServerOptions

ASK = [{"role": "user", "content": [input_audio(), {"type": "text", "text": "What is said?"}]}]


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with running(ScriptedEngine(name="/home/somebody/models/tiny/"), served_as=("whisper-1",)) as server:
        yield server


def test_the_model_is_listed_by_all_its_names_and_without_its_place(served: Running) -> None:
    with openai.OpenAI(base_url=served.api, api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["tiny", "whisper-1"]
        assert client.models.retrieve("whisper-1").owned_by == "soundwave"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-4o")
        assert client.chat.completions.create(model="whisper-1", messages=ASK).model == "whisper-1"  # type: ignore[arg-type]
    assert "somebody" not in httpx.get(served.address + "/v1/models").text


def test_it_lives_and_is_ready(served: Running) -> None:
    assert httpx.get(served.address + "/health").json() == {"status": "ok"}
    assert httpx.get(served.address + "/ready").json() == {"status": "ready"}


def test_metrics_count_what_was_done(served: Running) -> None:
    def counted() -> dict[str, float]:
        text = httpx.get(served.address + "/metrics").text
        return {
            sample.name + str(sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text) for sample in family.samples
        }

    before = counted()
    body: dict[str, Any] = {"model": "tiny", "messages": ASK}
    assert httpx.post(f"{served.api}/chat/completions", json=body).status_code == 200
    assert httpx.post(f"{served.api}/chat/completions", json={}).status_code == 400
    after = counted()
    gained = {name: value - before.get(name, 0) for name, value in after.items()}
    assert gained["soundwave_audio_seconds_total[]"] == 0.5
    assert gained["soundwave_completion_tokens_total[]"] == 4
    assert gained["soundwave_prompt_tokens_total[]"] == 20
    assert gained["soundwave_time_to_first_token_seconds_count[]"] == 1
    assert gained["soundwave_requests_total['/v1/chat/completions', '200']"] == 1
    assert gained["soundwave_requests_total['/v1/chat/completions', '400']"] == 1
    assert after["soundwave_requests_running[]"] == after["soundwave_requests_waiting[]"] == 0


def test_an_unknown_address_is_no_new_counter(served: Running) -> None:
    for i in range(3):
        httpx.get(f"{served.address}/nowhere/{i}")
    assert "nowhere" not in httpx.get(served.address + "/metrics").text


def test_the_description_is_whole_and_knows_no_422(served: Running) -> None:
    document = httpx.get(served.address + "/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/models", "/health", "/ready", "/metrics"} <= set(document["paths"])
    for address in document["paths"].values():
        for operation in address.values():
            assert "422" not in operation["responses"]
            assert operation["summary"]
            assert operation["description"]
    text = str(document["components"]["schemas"]["ChatRequest"])
    for name in ("temperature", "max_completion_tokens", "stop", "seed", "via"):
        assert name in text
    assert "HTTPValidationError" not in str(document)


@pytest.mark.parametrize(
    "options",
    [{"port": -1}, {"port": 70_000}, {"max_running": 0}, {"max_upload_mb": 0}, {"request_seconds": 0.0},
     {"allowed_origins": ("example.org",)}, {"max_queue": -1}],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        ServerOptions(**options)
