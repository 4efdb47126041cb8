"""Which tests share a process when they are run by several."""

import pytest

# Laws that look at the same searches, each of which is made once a process.
_SEARCHES = {
    "test_law_1_start.py",
    "test_law_2_zero.py",
    "test_law_4_count.py",
    "test_law_5_nested.py",
    "test_law_6_identity.py",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        name = item.path.name
        group = "searches" if name in _SEARCHES else name
        item.add_marker(pytest.mark.xdist_group(group))
