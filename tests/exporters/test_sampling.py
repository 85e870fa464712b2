# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters import sampling
from exporters.environment import SettingsError
from exporters.none import NoneExporter
from exporters.sampling import Policy, Sampled, sampled
from exporters.tracestate import NEVER, threshold_of
from tests.exporters import samples
from tracer.export import Exporter

MS = 10**6
S = 10**9
KEPT = b"\xff" * 16
"""The trace id that every ratio above zero keeps."""
FIRST = b"\xff" * 15 + b"\xfe"
"""Another, whose span makes the usual route known."""
LOST = bytes(15) + b"\1"
"""One that no ratio below one keeps."""
OUTLINE = samples.outline()
FAILURE = samples.outline(error_type="500")


class Recorder(Exporter):
    def __init__(self):
        self.spans = []
        self.closed = 0
        self.problem = None

    def export(self, spans):
        if self.problem:
            raise self.problem
        self.spans += spans

    def flush(self, timeout_s):
        return timeout_s > 0

    def close(self):
        self.closed += 1

    def counters(self):
        return {"spans_received": len(self.spans), "spans_dropped_error": 5}

    def levels(self):
        return {"spans_queued": 3}


class Setup:
    def __init__(self, ratio=0.1, **changes):
        self.now_s = 0.0
        self.recorder = Recorder()
        policy = Policy(threshold_of(ratio), **changes)
        self.sampled = Sampled(self.recorder, policy, lambda: self.now_s)
        self.export(span(FIRST))
        self.flush()

    def export(self, *spans):
        self.sampled.export(spans)

    def flush(self):
        """What was passed on since the last time."""
        self.sampled.flush(1)
        return self.passed()

    def passed(self):
        passed = self.recorder.spans[:]
        self.recorder.spans.clear()
        return passed

    @property
    def out(self):
        return self.sampled.counters()["spans_sampled_out"]

    @property
    def held(self):
        return self.sampled.levels()["spans_held"]


@pytest.fixture(autouse=True)
def no_ticks(monkeypatch):
    monkeypatch.setattr(sampling, "TICK_S", 3600)


@pytest.fixture
def make(request):
    def make(*args, **changes):
        made = Setup(*args, **changes)
        request.addfinalizer(made.sampled.close)
        return made

    return make


def span(trace_id, at_s=0.0, **changes):
    """A span that ends `at_s` seconds after the samples' start."""
    end = samples.START_NS + int(at_s * S)
    values = {"outline": OUTLINE, "start_unix_ns": end - MS, "end_unix_ns": end, **changes}
    return samples.span(1, trace_id=trace_id, **values)


def ids(seed, number):
    source = random.Random(seed)
    return [source.randbytes(16) for _ in range(number)]


# ---- what is asked for ----


@pytest.mark.parametrize(
    ("sampler", "argument", "ratio"),
    [
        ("", "", 1),
        ("always_on", "0.5", 1),
        ("parentbased_always_on", "", 1),
        ("traceidratio", "0.25", 0.25),
        ("traceidratio", "", 1),
        ("ParentBased_TraceIdRatio", "0.01", 0.01),
        ("parentbased_traceidratio", "0", 0),
    ],
)
def test_the_environment_names_a_sampler(sampler, argument, ratio):
    environ = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    policy = Policy.from_options({}, environ)
    assert policy == Policy(threshold_of(ratio), 1.0)


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, "OTEL_TRACES_SAMPLER"),
        ({"OTEL_TRACES_SAMPLER": "parentbased_jaeger_remote"}, "OTEL_TRACES_SAMPLER"),
        ({"OTEL_TRACES_SAMPLER": "xray"}, "OTEL_TRACES_SAMPLER"),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10%"},
            "OTEL_TRACES_SAMPLER_ARG",
        ),
    ],
)
def test_a_bad_variable_is_a_warning_and_everything_is_kept(caplog, environ, name):
    assert Policy.from_options({}, environ) == Policy(0)
    assert f"{name} is ignored" in caplog.text


def test_options_come_before_the_environment():
    environ = {"OTEL_TRACES_SAMPLER": "always_off"}
    policy = Policy.from_options({"sample": "0.5", "slow": "0.2", "endpoint": "x"}, environ)
    assert policy == Policy(threshold_of(0.5), 0.2)


@pytest.mark.parametrize("options", [{"sample": "2"}, {"sample": "few"}, {"slow": "0"}])
def test_a_bad_option_is_an_error_and_leaves_nothing_open(options):
    recorder = Recorder()
    with pytest.raises(SettingsError, match=next(iter(options))):
        sampled(recorder, options, {})
    assert recorder.closed == 1


@pytest.mark.parametrize("options", [{}, {"sample": "1"}, {"sample": "1.0", "slow": "3"}])
def test_where_everything_is_kept_nothing_is_in_between(options):
    exporter = NoneExporter()
    before = threading.active_count()
    assert sampled(exporter, options, {}) is exporter
    assert threading.active_count() == before


def test_always_off_keeps_nothing_at_all():
    recorder = Recorder()
    exporter = sampled(recorder, {}, {"OTEL_TRACES_SAMPLER": "always_off"})
    exporter.export([span(KEPT), span(LOST, outline=FAILURE)])
    assert exporter.flush(1)
    exporter.close()
    assert not recorder.spans
    assert exporter.counters()["spans_sampled_out"] == 2


def test_a_ratio_of_zero_still_keeps_what_matters(make):
    setup = make(0)
    setup.export(span(KEPT), span(LOST, outline=FAILURE))
    assert [each.trace_id for each in setup.flush()] == [LOST]


# ---- the ratio ----


def test_the_share_that_is_kept_is_the_ratio(make):
    setup = make(0.1)
    number = 100_000
    trace_ids = ids(1, number)
    for start in range(0, number, 1000):
        setup.export(*[span(each) for each in trace_ids[start : start + 1000]])
    kept = len(setup.flush())
    sigma = (number * 0.1 * 0.9) ** 0.5
    assert abs(kept - 0.1 * number) < 4 * sigma
    assert kept + setup.out == number


def adjusted_count(each):
    """As a backend computes it; 0 where no probability is known."""
    if not each.trace_state:
        return 0.0
    threshold = int(each.trace_state.removeprefix("ot=th:").ljust(14, "0"), 16)
    return NEVER / (NEVER - threshold)


def test_adjusted_counts_estimate_what_there_was_and_errors_are_exact(make):
    setup = make(0.1)
    source = random.Random(2)
    truth: Counter[bool] = Counter()
    number = 50_000
    for n, trace_id in enumerate(ids(3, number)):
        failed = source.random() < 0.05
        # Routes come and go, so that some are rare.
        outline = FAILURE if failed else samples.outline(f"GET /{n // 1000}")
        first = span(trace_id, n / 1000, outline=OUTLINE)
        setup.export(first, span(trace_id, n / 1000, outline=outline))
        truth[failed] += 2
    passed = setup.flush()
    assert [each for each in passed if not each.trace_state]
    failed = [each for each in passed if each.trace_state == "ot=th:0"]
    assert len(failed) == truth[True] == sum(map(adjusted_count, failed))
    others = sum(map(adjusted_count, passed)) - len(failed)
    # Two spans a trace come or go together: the deviation is twice that of traces, times 1/p.
    sigma = 2 * (number * 0.1 * 0.9) ** 0.5 / 0.1
    assert abs(others - truth[False]) < 4 * sigma


def test_two_agents_keep_the_same_traces_and_a_larger_ratio_keeps_them_too(make):
    trace_ids = ids(4, 3000)
    kept = []
    for ratio in (0.1, 0.1, 0.3):
        setup = make(ratio)
        setup.export(*[span(each) for each in random.Random(5).sample(trace_ids, 3000)])
        kept.append({each.trace_id for each in setup.flush()})
    assert kept[0] == kept[1]
    assert kept[0] < kept[2]


def test_the_threshold_itself_is_kept_and_what_is_below_is_not(make):
    setup = make(0.1)
    threshold = threshold_of(0.1)
    exact, below = (bytes(9) + each.to_bytes(7, "big") for each in (threshold, threshold - 1))
    setup.export(span(exact), span(below))
    assert [each.trace_id for each in setup.flush()] == [exact]


def test_explicit_randomness_counts_for_more_than_the_trace_id(make):
    setup = make(0.5)
    setup.export(span(LOST, trace_state="ot=rv:ffffffffffffff,a=1"))
    setup.export(span(KEPT, trace_state="ot=rv:00000000000000"))
    (passed,) = setup.flush()
    assert passed.trace_id == LOST
    assert passed.trace_state == "ot=th:8;rv:ffffffffffffff,a=1"


# ---- what matters ----


@pytest.mark.parametrize(
    "changes",
    [{"outline": FAILURE}, {"start_unix_ns": samples.START_NS - S}],
    ids=["an error", "a slow span"],
)
@pytest.mark.parametrize("trace_id", [KEPT, LOST])
@pytest.mark.parametrize("last", [True, False])
def test_a_trace_that_matters_is_kept_whole_and_for_certain(make, changes, trace_id, last):
    setup = make()
    spans = [span(trace_id), span(trace_id, **changes)]
    for each in spans if last else reversed(spans):
        setup.export(each)
    assert [each.trace_state for each in setup.flush()] == ["ot=th:0"] * 2


def test_a_span_just_below_slow_is_not(make):
    setup = make(slow_s=0.5)
    setup.export(span(LOST, start_unix_ns=samples.START_NS - S // 2 + 1))
    assert not setup.flush()


@pytest.mark.parametrize(
    "changes",
    [
        {"outline": samples.outline("POST")},
        {"process": samples.process("till")},
        {"peering": samples.peering(samples.Side.CLIENT)},
    ],
    ids=["name", "service", "kind"],
)
def test_a_rare_route_is_kept_once_a_minute_without_a_probability(make, changes):
    setup = make()
    for second in range(130):
        setup.export(span(LOST[:-2] + bytes([1, second]), second, **changes))
    setup.export(span(LOST, 200))
    passed = setup.flush()
    times = [(each.end_unix_ns - samples.START_NS) // S for each in passed]
    assert times == [0, 60, 120, 200]
    assert {each.trace_state for each in passed} == {""}


def test_processes_of_one_service_share_their_routes(make):
    setup = make()
    setup.export(*[span(each, process=samples.process()) for each in (LOST, bytes(16))])
    assert not setup.flush()


def test_a_rare_route_that_the_ratio_keeps_says_so(make):
    setup = make()
    setup.export(span(KEPT, outline=samples.outline("POST")))
    assert [each.trace_state for each in setup.flush()] == ["ot=th:e666"]


def test_names_that_are_all_different_do_not_keep_everything(make, monkeypatch):
    monkeypatch.setattr(sampling, "MAX_ROUTES", 10)
    setup = make()
    for n in range(100):
        setup.export(span(n.to_bytes(16, "big"), outline=samples.outline(f"GET {n}")))
    assert len(setup.flush()) == 9
    assert len(setup.sampled._routes) == 10
    # A minute later the old ones make room.
    setup.export(span(LOST, 61, outline=samples.outline("GET 1000")))
    assert len(setup.flush()) == 1
    assert len(setup.sampled._routes) == 10


# ---- traces are decided as a whole ----


def test_a_trace_waits_for_its_window_in_the_time_of_spans(make):
    setup = make()
    setup.export(span(KEPT, 0))
    setup.export(span(LOST, 1.9))
    assert not setup.passed()
    assert setup.held == 2
    setup.export(span(bytes(16), 2.0))
    assert len(setup.passed()) == 1
    assert setup.held == 2


def test_an_old_span_does_not_turn_their_time_back(make):
    setup = make()
    setup.export(span(KEPT, 5))
    setup.flush()
    setup.export(span(LOST, 1))
    setup.export(span(bytes(16), 4))
    assert setup.held == 2


def test_or_by_our_clock_when_no_more_spans_come(make):
    setup = make()
    setup.export(span(KEPT))
    setup.now_s = 1.9
    setup.sampled.tick()
    assert not setup.passed()
    setup.now_s = 2.0
    setup.sampled.tick()
    assert len(setup.passed()) == 1


def test_the_thread_looks_after_what_waits(monkeypatch):
    monkeypatch.setattr(sampling, "TICK_S", 0.001)
    passed = threading.Event()

    class Waiting(Recorder):
        def export(self, spans):
            passed.set()

    times = iter([0.0])
    exporter = Sampled(Waiting(), Policy(1 << 55), lambda: next(times, 10.0))
    exporter.export([span(KEPT)])
    assert passed.wait(5)
    exporter.close()
    assert not exporter._thread.is_alive()


def test_a_late_span_joins_its_kept_trace_at_once(make):
    setup = make()
    trace_id = KEPT
    setup.export(span(trace_id))
    setup.flush()
    setup.export(span(trace_id, 1, outline=samples.outline("POST")))
    assert [each.trace_state for each in setup.passed()] == ["ot=th:e666"]


@pytest.mark.parametrize("changes", [{"outline": FAILURE}, {"start_unix_ns": samples.START_NS - S}])
def test_from_a_late_error_on_a_trace_is_kept_for_certain(make, changes):
    setup = make()
    for trace_id in (LOST, KEPT):
        setup.export(span(trace_id))
        setup.flush()
        setup.export(span(trace_id, **changes))
        setup.flush()
        setup.export(span(trace_id))
        assert [each.trace_state for each in setup.passed()] == ["ot=th:0"]


def test_late_spans_of_a_rare_trace_have_no_probability_either(make):
    setup = make()
    setup.export(span(LOST, outline=samples.outline("POST")))
    setup.flush()
    setup.export(span(LOST, 1))
    assert [each.trace_state for each in setup.passed()] == [""]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 6),
            st.sampled_from([OUTLINE, OUTLINE, FAILURE, samples.outline("POST")]),
            st.floats(0, 1.9),
        ),
        max_size=30,
    ),
    st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    st.integers(1, 10),
)
def test_spans_of_a_window_are_kept_or_dropped_together(entries, ratio, batch):
    trace_ids = ids(6, 7)
    setup = Setup(ratio)
    spans = [span(trace_ids[n], at, outline=outline) for n, outline, at in entries]
    try:
        for start in range(0, len(spans), batch):
            setup.export(*spans[start : start + batch])
        setup.sampled.flush(1)
        there = Counter(each.trace_id for each in spans)
        passed = Counter(each.trace_id for each in setup.recorder.spans)
        assert setup.out + sum(passed.values()) == len(spans)
        for trace_id, number in passed.items():
            assert there[trace_id] == number
        failed = {each.trace_id for each in spans if each.outline is FAILURE}
        assert failed <= passed.keys()
        marks = {each.trace_id: set() for each in setup.recorder.spans}
        for each in setup.recorder.spans:
            marks[each.trace_id].add(each.trace_state)
        assert all(len(each) == 1 for each in marks.values())
    finally:
        setup.sampled.close()


def test_other_exporters_see_the_span_as_it_was(make):
    setup = make()
    original = span(KEPT)
    setup.export(original)
    (passed,) = setup.flush()
    assert original.trace_state == ""
    assert passed.trace_state == "ot=th:e666"
    assert passed.outline is original.outline
    assert passed.attributes() == original.attributes()


# ---- bounds, and the exporter behind ----


def test_with_too_many_spans_the_oldest_are_decided_early(make, monkeypatch):
    monkeypatch.setattr(sampling, "MAX_HELD", 100)
    setup = make(0.5)
    trace_ids = ids(7, 1000)
    for start in range(0, 1000, 10):
        setup.export(*[span(each) for each in trace_ids[start : start + 10]])
        assert setup.held <= 100
        assert len(setup.sampled._held) == setup.held
    assert 300 < len(setup.passed()) < 600


def test_kept_traces_are_remembered_within_a_bound(make, monkeypatch):
    monkeypatch.setattr(sampling, "MAX_KEPT", 100)
    setup = make(0.9)
    for trace_id in ids(8, 1000):
        setup.export(span(trace_id))
        setup.flush()
        remembered = len(setup.sampled._kept) + len(setup.sampled._kept_before)
        assert remembered <= 100
    assert remembered >= 50


def test_the_older_half_of_kept_traces_is_still_known(make, monkeypatch):
    monkeypatch.setattr(sampling, "MAX_KEPT", 100)
    setup = make(0.999)
    trace_ids = [bytes(9) + b"\xff" * 6 + bytes([n]) for n in range(60)]
    setup.export(*map(span, trace_ids))
    setup.flush()
    setup.export(*map(span, trace_ids))
    assert len(setup.passed()) == 60


def test_a_route_makes_room_when_it_is_rare_and_not_when_it_is_old(make, monkeypatch):
    monkeypatch.setattr(sampling, "MAX_ROUTES", 2)
    setup = make()
    setup.export(span(KEPT, 0, outline=samples.outline("POST")))
    assert len(setup.flush()) == 1
    setup.export(span(FIRST, 61))  # the usual route, which was there before
    setup.export(span(LOST, 62, outline=samples.outline("PUT")))
    assert len(setup.flush()) == 2


def test_services_are_remembered_within_a_bound(make, monkeypatch):
    monkeypatch.setattr(sampling, "MAX_PROCESSES", 10)
    setup = make(0.9)
    for trace_id in ids(9, 50):
        setup.export(span(trace_id, process=samples.process()))
    setup.flush()
    assert len(setup.sampled._services) <= 10


def test_counters_and_levels_are_those_of_the_exporter_and_our_own(make):
    setup = make()
    setup.export(span(LOST))
    assert setup.sampled.levels() == {"spans_queued": 3, "spans_held": 1}
    setup.flush()
    counters = setup.sampled.counters()
    assert counters == {"spans_received": 0, "spans_dropped_error": 5, "spans_sampled_out": 1}


def test_an_exporter_without_levels_is_no_trouble():
    exporter = Sampled(NoneExporter(), Policy(1 << 55))
    assert exporter.levels() == {"spans_held": 0}
    exporter.close()


def test_what_an_exporter_does_not_take_is_counted(make, caplog):
    setup = make()
    setup.recorder.problem = OSError("no room")
    setup.export(span(KEPT), span(KEPT))
    setup.flush()
    assert setup.sampled.counters()["spans_dropped_error"] == 5 + 2
    assert "no room" in caplog.text


def test_flush_and_close_reach_the_exporter_after_the_spans(make):
    setup = make()
    setup.export(span(KEPT))
    assert not setup.sampled.flush(0)
    assert setup.sampled.flush(1)
    assert len(setup.passed()) == 1
    setup.export(span(KEPT))
    setup.sampled.close()
    assert len(setup.passed()) == 1
    assert setup.recorder.closed == 1
    setup.export(span(LOST))
    assert len(setup.passed()) == 1
