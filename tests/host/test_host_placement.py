import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from synthetic import synthetic

from whet.errors import PlanRefused
from whet.host import default_workers, place


@st.composite
def hosts(draw):
    """Any mix of nodes, L3 groups, SMT, masks that leave holes, and quotas."""
    nodes, cores, threads = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 2))
    efficiency = draw(st.sampled_from([0, 0, 0, cores // 2]))
    whole = synthetic(nodes, cores, threads, l3_cores=draw(st.sampled_from([0, 1, 2, 4, 9])), efficiency=efficiency)
    some = st.sets(st.sampled_from(whole.online), min_size=1)
    uneven = st.lists(st.integers(0, cores), min_size=nodes, max_size=nodes).map(
        lambda kept: [cpu for core in whole.cores if core.id % cores < kept[core.node] for cpu in core.cpus] or [0]
    )
    allowed = draw(st.one_of(st.none(), some, some.map(lambda holes: set(whole.online) - holes or {0}), uneven, uneven))
    quota = draw(st.one_of(st.none(), st.floats(0.1, len(whole.online) + 1)))
    return synthetic(
        nodes, cores, threads, l3_cores=len(whole.caches_of(3)) and draw(st.sampled_from([1, 2, 4, 9])),
        allowed=allowed, quota=quota, efficiency=efficiency,
    )  # fmt: skip


@st.composite
def requests(draw):
    """A host and a request that fits it; numbers are drawn so that full, loose and odd fits are all common."""
    host, use_smt = draw(hosts()), draw(st.booleans())
    usable = host.budget.cores if use_smt else host.budget.physical
    per_worker = draw(st.integers(1, usable))
    front = draw(st.sampled_from([0, 0, 0, 1, 2]))
    compute = max(per_worker - front, 1)
    threads = draw(st.integers(1, compute))
    streams = draw(st.sampled_from([1, compute // threads]))
    total = streams * threads + front
    assume(total <= usable)
    workers = draw(st.sampled_from([1, usable // total, draw(st.integers(1, usable // total))]))
    return host, (workers, streams, threads), {"front_cores": front, "use_smt": use_smt}


def firsts(host):
    """Allowed physical cores per node."""
    found = {}
    for core in host.allowed_cores():
        found.setdefault(core.node, []).append(core)
    return found


def groups(host):
    """L3 group of every CPU; the node where caches are hidden."""
    shared = {cpu: cache.cpus for cache in host.caches_of(3) for cpu in cache.cpus}
    return {cpu: shared.get(cpu, node) for cpu, node in host.node_of().items()}


@settings(max_examples=500, deadline=None)
@given(requests())
def test_every_allowed_cpu_is_used_once_or_unused_with_a_reason(request):
    host, numbers, options = request
    placement = place(host, *numbers, **options)
    used = list(placement.cpus)
    unused = [cpu for one in placement.unused for cpu in one.cpus]
    assert sorted(used + unused) == list(host.budget.cpus)
    assert all(one.reason and one.cpus for one in placement.unused)
    assert len(used) == len(set(used)) <= host.budget.cores


@settings(max_examples=300, deadline=None)
@given(requests())
def test_workers_and_lanes_have_the_shape_that_was_asked_for(request):
    host, (workers, streams, threads), options = request
    placement = place(host, workers, streams, threads, **options)
    assert len(placement.workers) == workers
    node_of = host.node_of()
    for worker in placement.workers:
        assert [len(lane) for lane in worker.lanes] == [threads] * streams
        assert len(worker.front) == options["front_cores"]
        assert sorted([*worker.front, *(cpu for lane in worker.lanes for cpu in lane)]) == list(worker.cpus)
        assert set(worker.nodes) == {node_of[cpu] for cpu in worker.cpus}
        assert set(worker.cpus) <= set(worker.roam) <= set(host.budget.cpus)
        assert {node_of[cpu] for cpu in worker.roam} == set(worker.nodes)


@settings(max_examples=300, deadline=None)
@given(requests())
def test_no_sibling_is_used_while_a_physical_core_is_idle(request):
    host, numbers, options = request
    core_of = host.core_of()
    used = [core_of[cpu] for cpu in place(host, *numbers, **options).cpus]
    if len(set(used)) < len(used):
        assert options["use_smt"]
        assert set(used) == {core.id for core in host.allowed_cores()}


@settings(max_examples=300, deadline=None)
@given(requests())
def test_one_node_before_two(request):
    host, (workers, streams, threads), options = request
    per_worker = streams * threads + options["front_cores"]
    sizes = [len(cores) for cores in firsts(host).values()]
    assume(workers * per_worker <= sum(sizes))
    placement = place(host, workers, streams, threads, **options)
    nodes = {node for worker in placement.workers for node in worker.nodes}
    room = sorted((size // per_worker for size in sizes), reverse=True)
    if sum(room) >= workers:
        fewest = next(count for count in range(1, len(room) + 1) if sum(room[:count]) >= workers)
        assert all(len(worker.nodes) == 1 for worker in placement.workers)
        assert len(nodes) == fewest


@settings(max_examples=200, deadline=None)
@given(
    nodes=st.integers(1, 4), groups_per_node=st.integers(1, 4), l3=st.integers(1, 8), data=st.data(), smt=st.booleans()
)
def test_lanes_that_fit_an_l3_group_stay_within_one(nodes, groups_per_node, l3, data, smt):
    host = synthetic(nodes, groups_per_node * l3, 2 if smt else 1, l3_cores=l3)
    threads = data.draw(st.integers(1, l3))
    lanes_per_node = groups_per_node * (l3 // threads)
    streams = data.draw(st.integers(1, lanes_per_node))
    workers = data.draw(st.integers(1, lanes_per_node // streams))
    group = groups(host)
    for worker in place(host, workers, streams, threads, use_smt=smt).workers:
        for lane in worker.lanes:
            assert len({group[cpu] for cpu in lane}) == 1


@settings(max_examples=300, deadline=None)
@given(hosts(), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 3), st.booleans())
def test_a_request_is_honoured_whole_or_refused_with_its_numbers(host, workers, streams, threads, front, use_smt):
    total = workers * (streams * threads + front)
    usable = host.budget.cores if use_smt else host.budget.physical
    if total <= usable:
        assert len(place(host, workers, streams, threads, front_cores=front, use_smt=use_smt).cpus) == total
    else:
        with pytest.raises(PlanRefused, match=rf"needs {total} cores, more than the .*\b{usable} .*core"):
            place(host, workers, streams, threads, front_cores=front, use_smt=use_smt)


@pytest.mark.parametrize(
    ("numbers", "options", "message"),
    [
        ((0, 1, 1), {}, "workers is 0"),
        ((1, 0, 1), {}, "streams is 0"),
        ((1, 1, -2), {}, "threads_per_stream is -2"),
        ((1, 1, 1), {"front_cores": -1}, "front_cores is -1"),
        (
            (1, 2, 3),
            {},
            r"streams 2 x threads 3\) needs 6 cores, more than the budget of 4 cores \(all 4 online CPUs\)",
        ),
    ],
)
def test_refusals_name_the_knob_and_the_bound(numbers, options, message):
    with pytest.raises(PlanRefused, match=message):
        place(synthetic(), *numbers, **options)


def test_siblings_are_named_where_they_would_have_helped():
    host = synthetic(1, 4, 2)
    with pytest.raises(
        PlanRefused, match=r"needs 6 cores, more than the 4 physical cores .*8 logical CPUs.*use_smt is off"
    ):
        place(host, 1, 6, 1)
    assert len(place(host, 1, 6, 1, use_smt=True).cpus) == 6


def test_a_two_socket_xeon_gets_a_worker_per_socket(host):
    one = host("xeon-6148")
    assert default_workers(one) == 2
    placement = place(one, 2, 5, 4)
    assert [worker.nodes for worker in placement.workers] == [(0,), (1,)]
    assert placement.workers[1].lanes[0] == (20, 21, 22, 23)
    (siblings,) = placement.unused
    assert siblings.cpus == tuple(range(40, 80))
    assert "use_smt is off" in siblings.reason


def test_siblings_of_a_core_go_to_the_same_lane(host):
    placement = place(host("xeon-6148"), 2, 20, 2, use_smt=True)
    assert placement.workers[0].lanes[7] == (7, 47)
    assert placement.workers[1].lanes[0] == (20, 60)
    assert placement.unused == ()


def test_half_full_siblings_leave_no_core_idle_and_no_worker_across_nodes(host):
    placement = place(host("xeon-6148"), 2, 11, 2, use_smt=True)
    assert [worker.nodes for worker in placement.workers] == [(0,), (1,)]
    assert [len(worker.cpus) for worker in placement.workers] == [22, 22]


def test_numa_nodes_of_one_socket_get_a_worker_each(host):
    for name, cores in (("xeon-snc4", 14), ("epyc-nps4", 16)):
        one = host(name)
        assert default_workers(one) == 4
        placement = place(one, 4, 2, cores // 2)
        assert [worker.nodes for worker in placement.workers] == [(0,), (1,), (2,), (3,)]


def test_lanes_of_an_epyc_stay_within_their_core_complex(host):
    one = host("epyc-nps4")
    placement = place(one, 4, 4, 3)
    group = groups(one)
    assert all(len({group[cpu] for cpu in lane}) == 1 for worker in placement.workers for lane in worker.lanes)


def test_the_roomiest_node_is_filled_first_so_that_the_fewest_are_used():
    placement = place(synthetic(2, 5, allowed=[0, 1, 5, 6, 7, 8, 9]), 3, 1, 1)
    assert [worker.nodes for worker in placement.workers] == [(1,), (1,), (1,)]


def test_a_worker_wider_than_a_node_spans_the_fewest_nearest_ones():
    placement = place(synthetic(4, 4), 1, 3, 2)
    assert placement.workers[0].nodes == (0, 1)
    lone = synthetic(4, 4, allowed=[0, 4, 8, 9, 10, 12])
    assert place(lone, 1, 1, 4).workers[0].nodes == (1, 2)


def test_performance_cores_come_first_and_lanes_are_of_one_kind(host):
    one = host("laptop")
    assert place(one, 1, 2, 2).workers[0].lanes == ((0, 2), (4, 6))
    assert place(one, 1, 3, 4).workers[0].lanes == ((0, 2, 4, 6), (8, 9, 10, 11), (12, 13, 14, 15))


def test_a_quota_of_one_and_a_half_uses_one_core_of_sixty_four(host):
    for name in ("quota-1.5-v1", "quota-1.5-v2"):
        one = host(name)
        assert default_workers(one) == 1
        placement = place(one, 1, 1, 1)
        assert placement.cpus == (0,)
        assert placement.shared
        assert placement.workers[0].roam == tuple(range(64))
        (rest,) = placement.unused
        assert len(rest.cpus) == 63
        assert rest.reason.startswith("quota 1.5 CPUs rounded down")
        with pytest.raises(PlanRefused, match="needs 2 cores, more than the budget of 1 core "):
            place(one, 1, 2, 1)


def test_half_a_core_is_served_by_one_lane_and_said_to_be_less_than_one(host):
    one = host("half-a-core")
    assert (one.budget.cores, one.budget.quota) == (1, 0.5)
    assert default_workers(one) == 1
    placement = place(one, 1, 1, 1)
    assert len(placement.cpus) == 1
    assert placement.shared, "a quota picks no CPU: others on the host would choose the same one"
    with pytest.raises(PlanRefused, match="budget of 1 core"):
        place(one, 1, 1, 2)


def test_what_the_request_leaves_and_what_the_quota_forbids_are_told_apart():
    host = synthetic(1, 8, quota=4.5)
    request, quota = place(host, 1, 1, 3).unused
    assert (request.cpus, quota.cpus) == ((3,), (4, 5, 6, 7))
    assert "uses 3 of 4 cores" in request.reason
    assert quota.reason.startswith("quota 4.5 CPUs rounded down")


def test_a_mask_is_nobody_elses_so_it_is_not_shared(host):
    placement = place(host("cpuset-every-second"), 2, 10, 1)
    assert not placement.shared
    assert placement.workers[0].cpus == tuple(range(0, 20, 2))


def test_front_cores_are_kept_free_of_lanes():
    placement = place(synthetic(2, 8), 2, 7, 1, front_cores=1)
    assert [worker.front for worker in placement.workers] == [(7,), (15,)]
    assert placement.unused == ()


def test_a_straggler_node_gets_no_worker_of_its_own():
    assert default_workers(synthetic(2, 20, allowed=[*range(20), 20])) == 1
    assert default_workers(synthetic(2, 20, allowed=range(29))) == 1
    assert default_workers(synthetic(2, 20, allowed=range(30))) == 2
    assert default_workers(synthetic(4, 8, quota=9)) == 2
    assert default_workers(synthetic(4, 8, quota=8)) == 1
