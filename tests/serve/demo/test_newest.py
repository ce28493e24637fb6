"""Results of events that overlap."""

import asyncio

import gradio as gr

from serve.demo.newest import Newest


def results(*events):
    """The results of events, each (place, seconds), that begin one after the other."""
    newest = Newest()

    async def work(number, seconds):
        await asyncio.sleep(seconds)
        return number

    async def run():
        return await asyncio.gather(
            *(newest.result(place, work(number, seconds)) for number, (place, seconds) in enumerate(events))
        )

    return asyncio.run(run())


def test_result_that_comes_after_a_later_one_is_left_out():
    assert results(("answer", 0.05), ("answer", 0)) == [gr.skip(), 1]


def test_result_that_comes_while_a_later_event_runs_is_left_out():
    assert results(("answer", 0), ("answer", 0.05)) == [gr.skip(), 1]


def test_other_places_and_pages_are_independent():
    assert results(("answer", 0.05), ("comparison", 0)) == [0, 1]


def test_nothing_is_kept_after_the_last_event():
    newest = Newest()

    async def fail():
        raise ValueError

    async def run():
        await asyncio.gather(newest.result("answer", fail()), return_exceptions=True)
        return await newest.result("answer", asyncio.sleep(0, "done"))

    assert asyncio.run(run()) == "done"
    assert not newest._newest
