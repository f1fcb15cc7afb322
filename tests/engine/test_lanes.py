"""Both kinds of lanes: what runs, how many at a time, and what becomes of failures."""

import threading

import pytest

from whet.engine.lanes import Place, RuntimeLanes, ThreadLanes, lanes_for


class Called:
    """A slot that a lane's thread runs."""

    def __init__(self, fault=None):
        self.fault = fault
        self.gate = threading.Event()

    def prepare(self, shapes):
        return {}

    def outputs(self):
        return {}

    def run(self):
        self.gate.wait(10)
        if self.fault is not None:
            raise self.fault


class Started(Called):
    """A slot that runs itself; as OpenVINO does, it says nothing of a run that failed."""

    def __init__(self, fault=None):
        super().__init__(fault)
        self.thread = None

    def start(self, done):
        self.done = done
        self.thread = threading.Thread(target=self._work, args=(done,))
        self.thread.start()

    def over(self):
        if self.thread is None or self.thread.is_alive():
            return self.thread is None
        if self.fault is not None:
            raise self.fault
        return True

    def _work(self, done):
        self.gate.wait(10)
        if self.fault is None:
            done()


class Collector:
    """Takes what comes back, as the loop does."""

    def __init__(self, kind, width):
        self.woken = threading.Event()
        self.calls = 0
        self.lanes = lanes_for([Place(kind())], width, self.wake, "test")

    def wake(self):
        self.calls += 1
        self.woken.set()

    def take(self, count):
        got = []
        while len(got) < count:
            if not self.woken.wait(0.02):
                self.lanes.watch()
            self.woken.clear()
            got += self.lanes.finished()
        return got


@pytest.fixture(params=[Called, Started], ids=["threads of ours", "threads of the runtime"])
def kind(request):
    return request.param


def test_the_slots_decide_whose_threads_they_run_on():
    for kind, lanes in ((Called, ThreadLanes), (Started, RuntimeLanes)):
        made = lanes_for([Place(kind())], 1, lambda: None)
        assert type(made) is lanes
        assert made.close()


def test_no_more_run_than_there_are_lanes_and_what_waits_follows_in_order(kind):
    collector = Collector(kind, 2)
    places = [Place(kind()) for _ in range(4)]
    for place in places:
        collector.lanes.start(place)
    places[2].slot.gate.set()
    assert not collector.woken.wait(0.05)  # the third waits for a lane
    places[0].slot.gate.set()
    assert collector.take(2) == [places[0], places[2]]
    assert places[0].ended <= places[2].began <= places[2].ended
    places[3].slot.gate.set()
    assert collector.take(1) == [places[3]]
    places[1].slot.gate.set()
    assert collector.take(1) == [places[1]]
    assert all(place.error is None and place.heir is None for place in places)
    assert collector.lanes.close()


def test_what_is_held_runs_on_the_core_of_the_first_to_end(kind):
    collector = Collector(kind, 2)
    first, held, back = (Place(kind()) for _ in range(3))
    for place in (held, back):
        place.slot.gate.set()
    collector.lanes.start(first)
    collector.lanes.hold(held)
    collector.lanes.hold(back)
    assert not collector.woken.wait(0.05)
    first.slot.gate.set()
    assert collector.take(3) == [first, held, back]
    assert (first.heir, held.heir, back.heir) == (held, back, None)
    collector.lanes.hold(first)
    assert collector.lanes.release() is first
    assert collector.lanes.release() is None
    assert collector.lanes.close()


def test_a_failed_run_is_found_and_its_lane_goes_on(kind, monkeypatch):
    collector = Collector(kind, 1)
    broken, sound = Place(kind(ValueError("no"))), Place(kind())
    for place in (broken, sound):
        collector.lanes.start(place)
        place.slot.gate.set()
    assert collector.take(2) == [broken, sound]
    assert str(broken.error) == "no"
    assert sound.error is None
    broken.slot.fault = None
    collector.lanes.start(broken)
    assert collector.take(1) == [broken]
    assert broken.error is None
    assert collector.lanes.close()


def test_a_run_that_cannot_start_fails_at_once(monkeypatch):
    collector = Collector(Started, 1)
    place, other = Place(Started()), Place(Started())

    def refuse(done):
        raise ValueError("busy")

    monkeypatch.setattr(place.slot, "start", refuse)
    other.slot.gate.set()
    for each in (place, other):
        collector.lanes.start(each)
    assert collector.take(2) == [place, other]
    assert str(place.error) == "busy"
    assert collector.lanes.close()


def test_one_that_has_ended_cannot_end_again():
    collector = Collector(Started, 1)
    place = Place(Started())
    place.slot.gate.set()
    collector.lanes.start(place)
    assert collector.take(1) == [place]
    place.slot.done()
    assert collector.lanes.finished() == []
    assert collector.lanes.close()


def test_a_burst_wakes_once(kind):
    collector = Collector(kind, 3)
    places = [Place(kind()) for _ in range(3)]
    for place in places:
        collector.lanes.start(place)
        place.slot.gate.set()
    assert collector.lanes.close()  # has waited for all of them
    assert collector.calls == 1
    assert len(collector.lanes.finished()) == 3


def test_closing_waits_for_what_runs_and_gives_a_stuck_run_up(kind):
    collector = Collector(kind, 1)
    place = Place(kind())
    collector.lanes.start(place)
    assert not collector.lanes.close(0.05)
    place.slot.gate.set()
    assert collector.lanes.close()
    assert collector.lanes.finished() == [place]
