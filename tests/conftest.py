"""Which tests share a process, and what a process does between modules."""

import gc

import pytest
from xdist.scheduler import LoadFileScheduling

# Laws that look at the same searches, each of which is made once a process.
_SEARCHES = {
    "test_law_1_start.py",
    "test_law_2_zero.py",
    "test_law_4_count.py",
    "test_law_5_nested.py",
    "test_law_6_identity.py",
}


class _Scheduling(LoadFileScheduling):
    """Tests of one module share a process, and so do those of the searches."""

    def _split_scope(self, nodeid):
        path = super()._split_scope(nodeid)
        return "searches" if path.rsplit("/")[-1] in _SEARCHES else path


def pytest_xdist_make_scheduler(config, log):
    return _Scheduling(config, log)


@pytest.fixture(scope="module", autouse=True)
def _few_objects_to_collect():
    """What is left of earlier modules is not looked at again and again.

    A process comes to hold millions of objects, most of them TensorFlow's,
    and each full collection of garbage would visit all of them.
    """
    gc.collect()
    gc.freeze()
