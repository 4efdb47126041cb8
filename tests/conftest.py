"""Which tests share a process when they are run by several."""

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
