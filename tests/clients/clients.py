"""Clients that people have, against the running program: chat, streams, stop strings, seeds, errors, models.

Usage: clients.py URL     (the packages of requirements.txt installed)
"""

import os
import sys
import tempfile
import traceback
from pathlib import Path

URL = sys.argv[1].rstrip("/")
SEED = 7
HI = [{"role": "user", "content": "Tell me a story about a fox."}]
N_TOKENS = 24

# Nothing but the program is there to be talked to, and nobody is told about it.
os.environ.update(
    LITELLM_LOCAL_MODEL_COST_MAP="True",
    LITELLM_TELEMETRY="False",
    LANGCHAIN_TRACING_V2="false",
    LANGSMITH_TRACING="false",
    LLM_USER_PATH=tempfile.mkdtemp(prefix="llm-"),
    LLM_LOAD_PLUGINS="",
    OPENAI_API_KEY="none",
)


def same(a, b):
    assert a == b, f"{a!r} is not {b!r}"


def stop_and_rest(text):
    """A piece in the middle of a reply, and the reply as it is when that is a stop string."""
    assert len(text) > 12, f"too short to stop in: {text!r}"
    middle = len(text) // 2
    stop = text[middle : middle + 4]
    return stop, text[: text.index(stop)]


def raises(kind, call, *words):
    """The error that `call` raises, which says these words."""
    try:
        call()
    except kind as error:
        for word in words:
            assert word in str(error), f"{word!r} is not in {error}"
        return error
    raise AssertionError(f"no {kind.__name__}")


def openai_chat():
    import openai

    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
    [model] = client.models.list().data
    same(client.models.retrieve(model.id).id, model.id)
    same(raises(openai.NotFoundError, lambda: client.models.retrieve("gpt-4")).code, "model_not_found")

    def chat(**more):
        settings = dict(model=model.id, messages=HI, seed=SEED, max_tokens=N_TOKENS)
        return client.chat.completions.create(**(settings | more))

    reply = chat()
    text = reply.choices[0].message.content
    same(reply.choices[0].finish_reason, "length")
    same(reply.usage.completion_tokens, N_TOKENS)
    same(chat().choices[0].message.content, text)
    assert len({chat(seed=seed).choices[0].message.content for seed in range(4)}) > 1
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    same("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), text)
    same(chunks[-1].usage.total_tokens, reply.usage.total_tokens)
    stop, rest = stop_and_rest(text)
    stopped = chat(stop=[stop]).choices[0]
    same((stopped.message.content, stopped.finish_reason), (rest, "stop"))
    same(len(chat(n=2).choices), 2)
    tokens = chat(logprobs=True, top_logprobs=2).choices[0].logprobs.content
    same("".join(token.token for token in tokens), text)
    same(len(tokens[0].top_logprobs), 2)
    error = raises(openai.BadRequestError, lambda: chat(temperature=3))
    same((error.param, error.type), ("temperature", "invalid_request_error"))
    long = [{"role": "user", "content": "word " * 2000}]
    same(raises(openai.BadRequestError, lambda: chat(messages=long, stream=True)).code, "context_length_exceeded")


def openai_completions():
    import openai

    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
    settings = dict(model="any", prompt="Once upon a time", seed=SEED, max_tokens=N_TOKENS)
    text = client.completions.create(**settings).choices[0].text
    assert text
    same("".join(chunk.choices[0].text for chunk in client.completions.create(**settings, stream=True)), text)
    both = client.completions.create(**(settings | {"prompt": ["Once upon a time", "The"], "echo": True})).choices
    same([choice.text.split()[0] for choice in both], ["Once", "The"])
    scored = client.completions.create(**(settings | {"echo": True, "logprobs": 2, "max_tokens": 0})).choices[0]
    same((scored.text, "".join(scored.logprobs.tokens)), (settings["prompt"], settings["prompt"]))
    same(len(scored.logprobs.token_logprobs), len(scored.logprobs.top_logprobs))
    form = {"structured_outputs": {"choice": ["red", "green"]}}
    assert client.completions.create(**settings, extra_body=form).choices[0].text in ("red", "green")


def openai_responses():
    import openai

    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
    settings = dict(model="any", input="Tell me a story.", max_output_tokens=N_TOKENS, temperature=0)
    response = client.responses.create(**settings, instructions="Be brief.")
    assert response.output_text
    same((response.status, response.incomplete_details.reason), ("incomplete", "max_output_tokens"))
    with client.responses.stream(**settings, instructions="Be brief.") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    same("".join(deltas), response.output_text)
    raises(openai.BadRequestError, lambda: client.responses.create(**settings, previous_response_id="resp_1"), "stored")


def anthropic_messages():
    import anthropic

    client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
    # This client has no argument for it any more; the API has.
    sampling = {"temperature": 0}
    settings = dict(model="any", max_tokens=N_TOKENS, messages=HI, system="Be brief.", extra_body=sampling)
    message = client.messages.create(**settings)
    text = message.content[0].text
    same((message.stop_reason, message.usage.output_tokens), ("max_tokens", N_TOKENS))
    with client.messages.stream(**settings) as stream:
        same("".join(stream.text_stream), text)
        same(stream.get_final_message().stop_reason, "max_tokens")
    stop, rest = stop_and_rest(text)
    stopped = client.messages.create(**settings, stop_sequences=[stop])
    same((stopped.content[0].text, stopped.stop_reason, stopped.stop_sequence), (rest, "stop_sequence", stop))
    count = client.messages.count_tokens(model="any", messages=HI, system="Be brief.").input_tokens
    same(message.usage.input_tokens + message.usage.cache_read_input_tokens, count)
    raises(anthropic.BadRequestError, lambda: client.messages.create(**(settings | {"messages": []})), "messages")


def ollama_client():
    import ollama

    client = ollama.Client(host=URL)
    [model] = client.list().models
    same([one.model for one in client.ps().models], [model.model])
    same(client.show(model.model).capabilities, ["completion", "tools", "embedding"])
    options = {"seed": SEED, "num_predict": N_TOKENS}
    reply = client.chat(model=model.model, messages=HI, options=options)
    same((reply.done, reply.done_reason, reply.eval_count), (True, "length", N_TOKENS))
    text = reply.message.content
    parts = list(client.chat(model=model.model, messages=HI, options=options, stream=True))
    same("".join(part.message.content for part in parts), text)
    same(parts[-1].done_reason, "length")
    stop, rest = stop_and_rest(text)
    stopped = client.chat(model=model.model, messages=HI, options=options | {"stop": [stop]})
    same((stopped.message.content, stopped.done_reason), (rest, "stop"))
    first = client.generate(model="gemma2", prompt="Tell me a story.", options=options)
    second = client.generate(model="gemma2", prompt="Go on.", context=first.context, options=options)
    assert second.prompt_eval_count > first.prompt_eval_count + N_TOKENS
    streamed = client.generate(model="gemma2", prompt="Tell me a story.", options=options, stream=True)
    same("".join(part.response for part in streamed), first.response)
    error = raises(ollama.ResponseError, lambda: client.chat(model="x", messages=HI, think=True), "think")
    same(error.status_code, 400)


def langchain_openai_chat():
    import openai
    from langchain_openai import ChatOpenAI

    def model(**more):
        settings = dict(base_url=f"{URL}/v1", api_key="none", model="any", seed=SEED, max_tokens=N_TOKENS, max_retries=0)
        return ChatOpenAI(**(settings | more))

    text = model().invoke("Tell me a story.").content
    assert text
    same("".join(chunk.content for chunk in model().stream("Tell me a story.")), text)
    stop, rest = stop_and_rest(text)
    same(model().invoke("Tell me a story.", stop=[stop]).content, rest)
    reply = model().invoke([("system", "Be brief."), ("human", "Hi"), ("ai", "Hello!"), ("human", "Tell me a story.")])
    assert reply.usage_metadata["input_tokens"] > 10
    raises(openai.BadRequestError, lambda: model(temperature=3).invoke("Hi"), "temperature")


def litellm_in_three_dialects():
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    for model, base in [("openai/any", f"{URL}/v1"), ("ollama_chat/any", URL), ("anthropic/any", URL)]:
        # LiteLLM does not pass a seed on to Anthropic.
        choice = {"temperature": 0} if model.startswith("anthropic") else {"seed": SEED}
        settings = dict(model=model, api_base=base, api_key="none", messages=HI, max_tokens=N_TOKENS, **choice)
        reply = litellm.completion(**settings)
        text = reply.choices[0].message.content
        same((model, reply.usage.completion_tokens), (model, N_TOKENS))
        chunks = litellm.completion(**settings, stream=True)
        same("".join(chunk.choices[0].delta.content or "" for chunk in chunks), text)
        stop, rest = stop_and_rest(text)
        same(litellm.completion(**settings, stop=[stop]).choices[0].message.content, rest)
    settings = dict(model="openai/any", api_base=f"{URL}/v1", api_key="none", messages=HI, temperature=3)
    raises(litellm.BadRequestError, lambda: litellm.completion(**settings), "temperature")


def llm_with_a_model_of_its_own():
    folder = Path(os.environ["LLM_USER_PATH"])
    (folder / "extra-openai-models.yaml").write_text(
        f"- model_id: local\n  model_name: any\n  api_base: {URL}/v1\n  api_key_name: local\n"
        f"- model_id: local-text\n  model_name: any\n  api_base: {URL}/v1\n  api_key_name: local\n  completion: true\n"
    )
    (folder / "keys.json").write_text('{"local": "none"}')
    import llm

    for name in ["local", "local-text"]:
        model = llm.get_model(name)
        settings = dict(seed=SEED, max_tokens=N_TOKENS)
        text = model.prompt("Once upon a time", stream=False, **settings).text()
        assert text
        same("".join(model.prompt("Once upon a time", stream=True, **settings)), text)
        stop, rest = stop_and_rest(text)
        same(model.prompt("Once upon a time", stream=False, stop=stop, **settings).text(), rest)


def prometheus_parser():
    from urllib.request import urlopen

    from prometheus_client.parser import text_string_to_metric_families

    text = urlopen(f"{URL}/metrics").read().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["llamacpp:tokens_predicted"].samples[0].value > 0, "the clients before have made tokens"
    for family in families.values():
        assert family.type in ("counter", "gauge", "histogram") and family.documentation, family
        if family.type == "histogram":
            *buckets, total, count = family.samples
            counts = [bucket.value for bucket in buckets if bucket.name.endswith("_bucket")]
            assert counts == sorted(counts) and buckets[-1].labels["le"] == "+Inf", family
            same({sample.name: sample.value for sample in (total, count)}[f"{family.name}_count"], counts[-1])
    same([name for name, family in families.items() if family.type == "histogram"], [
        "gemma2:queue_seconds", "gemma2:first_token_seconds", "gemma2:reply_tokens_per_second",
    ])


CLIENTS = [
    openai_chat,
    openai_completions,
    openai_responses,
    anthropic_messages,
    ollama_client,
    langchain_openai_chat,
    litellm_in_three_dialects,
    llm_with_a_model_of_its_own,
    prometheus_parser,
]


def main():
    failed = []
    for client in CLIENTS:
        try:
            client()
            print(f"ok      {client.__name__}", flush=True)
        except Exception:
            traceback.print_exc()
            print(f"FAILED  {client.__name__}", flush=True)
            failed.append(client.__name__)
    sys.exit(1 if failed else 0)


main()
