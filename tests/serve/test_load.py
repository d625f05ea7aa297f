"""Some seconds of load; the minutes of it are `python -m tests.serve.load`."""

import asyncio
import dataclasses

from tests.serve.clients import Clients, make_requests, same
from tests.serve.helpers import tiny_writer
from tests.serve.load import load


def test_clients_of_all_kinds_get_what_the_offline_engine_writes() -> None:
    made = load([2, 24], rounds=2, seconds=2.5, requests=24)
    assert made.wrong == []
    assert made.left == "0.0"
    for level in made.levels:
        assert level.counts["whole"] > 3
    assert {"whole", "streamed", "slow", "vanished"} <= set(made.levels[1].counts)
    assert all(one > 50 for one in made.memory[0])


def test_a_wrong_answer_would_be_seen() -> None:
    requests = make_requests(tiny_writer(), 24)
    assert {asked.path for asked in requests} == {"/score", "/v1/completions", "/v1/embeddings"}
    clients = Clients("http://127.0.0.1:1", requests)
    for asked in requests:
        if asked.path == "/score":
            found = [asked.wanted[0]]
            assert same(asked, found)
            assert not same(asked, [asked.wanted[0] + "a"])
            clients._compare(dataclasses.replace(asked, wanted=["other"]), found, "whole")
    assert clients.wrong
    asyncio.run(clients.run(2, 0.05))  # Nobody is there.
    assert "ConnectError" in "".join(clients.wrong)
