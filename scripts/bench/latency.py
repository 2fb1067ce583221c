#!/usr/bin/env python3
"""How long a server lets people wait, and what forms of replies cost. Speaks llama.cpp's /completion; the context must hold
--prompt tokens (gemma2: -c 0 -np 8). Prints durations and judges none:

    latency.py http://127.0.0.1:8080

- first token of a short request, alone, while a long prompt is being read, and while others make tokens;
- a conversation's next turn: tokens that were computed, and the time to its first token;
- time of a token of several streams at once, free and as JSON of a schema.
"""
import argparse
import http.client
import json
import statistics
import threading
import time
import urllib.parse


def ask(url, events=None, leave=None, **body):
    """Streams a completion. Returns the times of its tokens since the request, and its last event."""
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=3600)
    start = time.monotonic()
    body = {"stream": True, "ignore_eos": True, "temperature": 0, "n_predict": 8, **body}
    connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"{answer.status}: {answer.read().decode()}")
    times, event = [], {}
    for line in answer:
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if events is not None:
                events.append(event)
            if not event.get("stop") and not event.get("prompt_progress"):
                times.append(time.monotonic() - start)
        if leave is not None and leave.is_set():
            break
    connection.close()
    return times, event


def text_of(url, n_tokens, seed):
    """A text of about so many tokens that no cache knows."""
    words = [f"{(seed * 7919 + i * 104729) % 9973}" for i in range(n_tokens)]
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=600)
    connection.request("POST", "/tokenize", json.dumps({"content": " ".join(words)}))
    tokens = json.load(connection.getresponse())["tokens"][:n_tokens]
    return tokens


def first_token(url, rounds, n_prompt):
    def short(i):
        return ask(url, prompt=f"Number {i}: how are you?", cache_prompt=False)[0][0]

    def beside(others):
        """The same while the others run, which are told to leave afterwards."""
        found = []
        for i in range(rounds):
            leave, events = threading.Event(), []
            threads = [
                threading.Thread(target=ask, args=(url, events, leave), kwargs={**body, "return_progress": True})
                for body in others(i)
            ]
            for thread in threads:
                thread.start()
            while len(events) < 2 * len(threads):
                if not all(thread.is_alive() for thread in threads):
                    raise SystemExit("what should run beside it has ended")
                time.sleep(0.005)
            found.append(short(i))
            leave.set()
            for thread in threads:
                thread.join()
        return found

    show("first token, alone", [short(i) for i in range(rounds)])
    long = lambda i: [{"prompt": text_of(url, n_prompt, 100 + i), "cache_prompt": False}]
    show(f"first token while a prompt of {n_prompt} tokens is read", beside(long))
    busy = lambda i: [{"prompt": f"{i} {n}: a story.", "n_predict": 400} for n in range(3)]
    show("first token while 3 others make tokens", beside(busy))


def next_turn(url, n_prompt):
    tokens = text_of(url, n_prompt, 7)
    events = []
    times, end = ask(url, events, prompt=tokens, return_tokens=True, id_slot=0)
    print(f"a conversation of {n_prompt} tokens: {end['timings']['prompt_n']} computed, first token after {times[0]:.3f} s")
    reply = [token for event in events for token in event.get("tokens") or [] if not event.get("stop")]
    tokens = tokens + reply + text_of(url, 12, 9)
    times, end = ask(url, prompt=tokens, id_slot=0)
    computed = end["timings"]["prompt_n"]
    print(f"  its next turn of 12 tokens: {computed} computed, first token after {times[0]:.3f} s")


def forms(url, rounds, n_streams):
    schema = {
        "type": "object",
        "properties": {"items": {"type": "array", "items": {"type": "string", "minLength": 20}, "minItems": 50}},
        "required": ["items"],
    }
    for name, more in [("free", {}), ("JSON of a schema", {"json_schema": schema})]:
        found = []
        for i in range(rounds):
            results = [None] * n_streams

            def run(n):
                results[n] = ask(url, prompt=f"{i} {n}: write a list.", n_predict=48, cache_prompt=False, **more)[0]

            threads = [threading.Thread(target=run, args=(n,)) for n in range(n_streams)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            gaps = [(times[-1] - times[8]) / max(1, len(times) - 9) for times in results]
            found.append(statistics.median(gaps))
        show(f"a token of {n_streams} streams, {name}", found)


def show(name, seconds):
    print(f"{name}: {statistics.median(seconds) * 1e3:.1f} ms ({min(seconds) * 1e3:.1f} to {max(seconds) * 1e3:.1f})", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("url", type=urllib.parse.urlparse)
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--prompt", type=int, default=7900, help="tokens of the long prompt, if the context holds them")
    ap.add_argument("--streams", type=int, default=8)
    args = ap.parse_args()
    connection = http.client.HTTPConnection(args.url.hostname, args.url.port, timeout=60)
    connection.request("GET", "/props")
    n_ctx = json.load(connection.getresponse())["default_generation_settings"]["n_ctx"]
    first_token(args.url, args.rounds, min(args.prompt, n_ctx - 100))
    next_turn(args.url, min(2000, n_ctx - 100))
    forms(args.url, args.rounds, args.streams)


if __name__ == "__main__":
    main()
