#!/usr/bin/env python3
"""How many tokens per second a server makes for several streams at once. Speaks llama.cpp's /completion, so that it measures
llama-server and ours alike:

    streams.py http://127.0.0.1:8080 --streams 1,4,8 --tokens 48 --rounds 3

Each stream has a prompt of its own and runs to its end; a round counts from the moment when all have made their first token
to the end of the first that is done, so that prompts are not measured. Prints the median over the rounds.
"""
import argparse
import http.client
import json
import statistics
import threading
import time
import urllib.parse


def stream(url, prompt, n_tokens, times):
    """Asks for n_tokens and appends the time of each to times."""
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=600)
    body = {"prompt": prompt, "n_predict": n_tokens, "stream": True, "ignore_eos": True, "temperature": 0}
    connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"{answer.status}: {answer.read().decode()}")
    for line in answer:
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if not event.get("stop"):
                # Several tokens may come at once, when a guess was right.
                times.extend([time.monotonic()] * max(1, len(event.get("tokens") or [0])))


def round_of(url, n_streams, n_tokens):
    """Tokens per second of all streams together."""
    times = [[] for _ in range(n_streams)]
    prompts = [f"Number {i}: tell me about the number {i * 37 + 11}." for i in range(n_streams)]
    threads = [threading.Thread(target=stream, args=(url, p, n_tokens, t)) for p, t in zip(prompts, times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    start = max(t[0] for t in times)
    end = min(t[-1] for t in times)
    made = sum(1 for t in times for at in t if start < at <= end)
    return made / (end - start)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("url", type=urllib.parse.urlparse)
    ap.add_argument("--streams", default="1,4,8")
    ap.add_argument("--tokens", type=int, default=48)
    ap.add_argument("--rounds", type=int, default=3)
    args = ap.parse_args()
    for n in map(int, args.streams.split(",")):
        rounds = [round_of(args.url, n, args.tokens) for _ in range(args.rounds)]
        print(f"{n} streams: {statistics.median(rounds):.1f} tokens/s ({min(rounds):.1f} to {max(rounds):.1f})")


if __name__ == "__main__":
    main()
