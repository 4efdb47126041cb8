"""Numbers as text, for figures, tables and the page."""


def percent(fraction, unit=" %"):
    """A fraction with three digits: `"3.58 %"`, `"51.0 %"`, `"100 %"`."""
    number = 100 * fraction
    return f"{number:#.3g}{unit}" if number < 99.95 else f"{number:.0f}{unit}"


def spread(values, form):
    """Mean [minimum, maximum]; the value alone if there is only one.

    Args:
        values: list of numbers.
        form: function, number -> str.
    """
    mean = form(sum(values) / len(values))
    if len(values) < 2:
        return mean
    return f"{mean} [{form(min(values))}, {form(max(values))}]"


def accuracy(fraction):
    """`"98.31"`: percent, without the sign."""
    return f"{100 * fraction:.2f}"


def points(fraction):
    """`"+0.31"`: percentage points, with their sign."""
    return _sign(f"{100 * fraction:+.2f}")


def whole(number):
    """`"2,400"`."""
    return f"{number:,.0f}"


def signed(number):
    """`"+2,400"`."""
    return _sign(f"{number:+,.0f}")


def _sign(text):
    """A minus as wide as the plus; no sign before a zero."""
    if not text.strip("+-0."):
        return text[1:]
    return text.replace("-", "\N{MINUS SIGN}")


def duration(seconds):
    """`"1 h 03 min"`, `"2 min 05 s"`, `"7 s"`."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {left:02d} s" if minutes else f"{left} s"


def plural(number, noun):
    """`"1 trial"`, `"3 trials"`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
