"""What the processes of a restore share."""

from vmckpt.restoring.crew import MOST_HELPERS
from vmckpt.restoring.log import COUNTERS, Counter
from vmckpt.restoring.shared import Shared


def test_every_helper_has_counters_of_its_own_and_they_add_up() -> None:
    with Shared(page_count=1, storage_blocks=1, vcpus=1) as shared:
        logs = [shared.log, *map(shared.log_of, range(1, MOST_HELPERS + 1))]
        for number, log in enumerate(logs):
            assert len(log.counters) == COUNTERS
            log.counters[Counter.READS] += 10**number
        assert shared.total(Counter.READS) == sum(10**number for number in range(len(logs)))
        assert [log.counters[Counter.READS] for log in logs] == [10**number for number in range(len(logs))]
