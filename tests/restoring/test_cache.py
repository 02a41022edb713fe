"""The pool of storage blocks, and their buffers."""

from vmckpt.restoring.cache import Buffers, Pool


def test_what_was_not_used_for_longest_leaves() -> None:
    pool: Pool[str] = Pool(30)
    for number, block in enumerate("abc"):
        pool.put(number, block, 10)
    assert pool.get(0) == "a"
    assert pool.make_room(10) == ["b"]
    assert [number in pool for number in range(3)] == [True, False, True]


def test_spent_blocks_leave_first() -> None:
    pool: Pool[str] = Pool(30)
    for number, block in enumerate("abc"):
        pool.put(number, block, 10)
    pool.spend(2)
    pool.spend(9)
    assert pool.make_room(15) == ["c", "a"]


def test_a_pool_never_holds_more_than_its_limit() -> None:
    pool: Pool[int] = Pool(25)
    for number in range(10):
        pool.make_room(10)
        pool.put(number, number, 10)
        assert pool.used_bytes <= 25
    assert len(pool) == 2
    assert pool.get(3) is None


def test_a_block_larger_than_the_pool_has_it_for_itself() -> None:
    pool: Pool[str] = Pool(5)
    pool.put(0, "a", 3)
    assert pool.make_room(100) == ["a"]
    pool.put(1, "b", 100)
    assert len(pool) == 1


def test_a_buffer_that_was_given_back_is_the_first_available() -> None:
    buffers = Buffers(4096, 3)
    taken = [buffers.take() for _ in range(3)]
    assert sorted(number for number, _ in taken) == [0, 1, 2]
    taken[1][1][:3] = b"abc"
    buffers.give(taken[1][0])
    number, view = buffers.take()
    assert (number, bytes(view[:3]), len(view)) == (taken[1][0], b"abc", 4096)


def test_of_spent_blocks_only_so_many_are_kept() -> None:
    pool: Pool[int] = Pool(1000, most_spent=2)
    for number in range(5):
        pool.put(number, number, 10)
        pool.spend(number)
    assert pool.make_room(10) == [0, 1, 2]
    assert len(pool) == 2


def test_a_lease_ends_when_the_buffer_is_taken_again() -> None:
    buffers = Buffers(4096, 1)
    number, _ = buffers.take()
    lease = buffers.lease(number)
    buffers.give(number)
    assert lease.holds
    buffers.take()
    assert not lease.holds


def test_rooms_are_used_in_turn() -> None:
    buffers = Buffers(4096, 3)
    leases = [buffers.rotate()[0] for _ in range(4)]
    assert [lease.holds for lease in leases] == [False, True, True, True]
