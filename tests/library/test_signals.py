"""Signals that arrive in a block whose handlers are somebody else's, as Dagster's are while it runs a job."""

import os
import signal
import threading

import pytest

from rkd_pipeline.signals import SIGNALS, Interrupted, signals_heeded, signals_heeded_after

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_raised_at_once(number: signal.Signals) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    with pytest.raises(Interrupted, match=number.name) as raised, signals_heeded():
        os.kill(os.getpid(), number)
    assert raised.value.exit_status == STATUS[number]
    assert [signal.getsignal(n) for n in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_one_that_somebody_else_swallowed_is_raised_after_the_block(number: signal.Signals) -> None:
    swallowed = []

    def command() -> None:
        with signals_heeded_after():
            pass  # nothing came: nothing is raised
        with signals_heeded_after():
            ours = {n: signal.signal(n, lambda got, _: swallowed.append(got)) for n in SIGNALS}
            os.kill(os.getpid(), number)
            for n, handler in ours.items():
                signal.signal(n, handler)
            assert swallowed == [number]  # and the block went on

    with pytest.raises(Interrupted, match=number.name), signals_heeded():
        command()


def test_one_that_came_as_another_error_is_still_an_interruption() -> None:
    """Dagster raises its own error out of a step; what leaves the block is ours."""

    def raise_another(*_: object) -> None:
        raise RuntimeError("interrupted, says somebody else")

    def command() -> None:
        signal.signal(signal.SIGTERM, raise_another)
        with signals_heeded_after():
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="SIGTERM"), signals_heeded():
        command()


def test_without_signals_an_error_stays_what_it_is() -> None:
    with pytest.raises(ValueError, match="mine"), signals_heeded(), signals_heeded_after():
        raise ValueError("mine")
    with signals_heeded_after():  # outside of any command: nothing is heard
        pass


def test_other_threads_have_no_signals() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with signals_heeded():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
