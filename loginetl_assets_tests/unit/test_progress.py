import pytest

from loginetl_assets.cli import console
from loginetl_assets.steps.progress import SECONDS_BETWEEN_LINES, Progress


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_batch_is_told_at_once_and_later_ones_every_ten_seconds_at_most() -> None:
    lines: list[str] = []
    clock = _Clock()
    done = Progress(lines.append, "masked", clock=clock)
    clock.now = 2
    done(5_000)
    for _ in range(19):
        clock.now += 1
        done(5_000)
    assert lines == [
        "masked so far: 5,000 messages in 1 batch, 2,500 messages a second",
        "masked so far: 55,000 messages in 11 batches, 4,583 messages a second",
    ]


def test_one_message_is_counted_as_one() -> None:
    lines: list[str] = []
    clock = _Clock()
    done = Progress(lines.append, "loaded", clock=clock)
    clock.now = 1
    done(1)
    assert lines == ["loaded so far: 1 message in 1 batch, 1 message a second"]


def test_each_batch_is_told_where_each_takes_longer() -> None:
    lines: list[str] = []
    clock = _Clock()
    done = Progress(lines.append, "landed", clock=clock)
    for _ in range(3):
        clock.now += SECONDS_BETWEEN_LINES
        done(1_200)
    assert len(lines) == 3
    assert lines[-1] == "landed so far: 3,600 messages in 3 batches, 120 messages a second"


def test_a_command_without_a_terminal_writes_a_line_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = _Clock()
    with console.progress(clock) as show:
        for second in range(25):
            clock.now = second
            show("masked files", 100 * second, 20_000)
            show("messages drained", 0, 0)
    assert capsys.readouterr().err.splitlines() == [
        "masked files: 1,000 of 20,000",
        "masked files: 2,000 of 20,000",
    ]
