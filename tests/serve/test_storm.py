"""A few hundred bad requests; the many of them are `python -m tests.serve.storm`."""

from tests.serve.storm import Storm, storm


def test_bad_requests_neither_hang_nor_fail() -> None:
    made = storm(300, seed=1)
    assert made.wrong == []
    assert made.counts.total() >= 280
    statuses = {status for _, status in made.counts}
    assert {200, 422, 404} <= statuses
    assert sum(count for (_, status), count in made.counts.items() if status == 200) > 50


def test_a_failure_would_be_seen() -> None:
    made = Storm.__new__(Storm)
    made.counts, made.wrong, made.slowest = __import__("collections").Counter(), [], 0.0
    made.note("/score", 500, 0.0, lambda: "what was sent")
    assert made.wrong == ["/score: 500: a failure of the server's: what was sent"]
