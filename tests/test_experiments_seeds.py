"""Seeds: one to derive all from, none the same."""

from keras_lottery.experiments.seeds import derive


def test_purposes_have_seeds_of_their_own():
    purposes = [
        (t, p) for t in range(50) for p in ("weights", "order", "split")
    ]
    seeds = {derive(0, *purpose) for purpose in purposes}
    assert len(seeds) == len(purposes)


def test_a_seed_is_a_pure_function_of_its_purpose():
    assert derive(3, 1, "weights") == derive(3, 1, "weights")
    assert derive(3, 1, "weights") != derive(4, 1, "weights")
    assert 0 <= derive(3, 1, "weights") < 2**31
