"""Writes the report of a run: one page, and its figures as files."""

import json
import os

from keras_lottery import recipes
from keras_lottery.experiments.arms import ARMS
from keras_lottery.report import claims, figures, html, plates, tables
from keras_lottery.report.headline import (
    headline,
    scale,
    subject,
    too_short,
)
from keras_lottery.report.paper import CLAIMS
from keras_lottery.report.reading import Run
from keras_lottery.report.wording import duration, plural

_PAPER = (
    'Frankle &amp; Carbin, <a href="https://arxiv.org/abs/1803.03635">The '
    "Lottery Ticket Hypothesis</a>, ICLR 2019"
)


def write(run_dir):
    """Writes `report.html`, `figure.png` and `figures/` of a run.

    The page is one file that needs no network and no script. A run that is
    not finished, or was written by an older version, is reported as far as it
    goes.

    Args:
        run_dir: str or path-like, the directory of a run.

    Returns:
        A str, the path of `report.html`.

    Raises:
        ValueError: If the directory holds no run, or no result yet.

    Example:

    ```python
    from keras_lottery import report
    from keras_lottery.experiments import Experiment

    Experiment(rounds=3, iterations=200).run("runs/digits")
    report.write("runs/digits")
    ```

    Source: the figures are those of Frankle & Carbin, 1803.03635.
    """
    run = Run(run_dir)
    drawn = {
        "results": plates.against_density(run),
        "curves": plates.learning_curves(run),
        "left": plates.layer_densities(run) + plates.first_layer(run),
        "weights": plates.weights(run),
    }
    _write_files(run, [p for part in drawn.values() for p in part])
    found, rule = headline(run)
    text = html.page(
        f"Lottery tickets: {subject(run.experiment)}",
        _head(run, found, rule),
        _sections(run, drawn),
    )
    run.store.write_text("report.html", text)
    return run.store.path("report.html")


def _write_files(run, drawn):
    for plate in drawn:
        for name, content in plate.files.items():
            run.store.put(os.path.join("figures", name), content)
    settings = run.experiment
    figures.against_density(
        run.results,
        run.store.path("figure.png"),
        f"{subject(settings)}, {settings['iterations']:,} iterations, "
        f"{plural(run.trials, 'trial')}",
    )


def _head(run, found, rule):
    parts = [html.paragraph(found, "result"), html.chips(scale(run))]
    if len(run.results) < run.planned:
        text = (
            f"This run is not finished: {len(run.results)} of "
            f"{plural(run.planned, 'result')} are there."
        )
        parts.append(html.paragraph(text, "warning"))
    if too_short(run):
        text = (
            "The budget may be too small: early stop is on average in the "
            "last twentieth of the iterations, so validation was still "
            "improving and early-stop iterations say little."
        )
        parts.append(html.paragraph(text, "warning"))
    if rule:
        parts.append(html.paragraph(rule, "note"))
    return "".join(parts)


def _sections(run, drawn):
    shown = {
        part: html.grid(
            html.figure(p.inline(), p.title, p.caption) for p in found
        )
        if found
        else ""
        for part, found in drawn.items()
    }
    return [
        html.Section("results", "Results", shown["results"] + _arms(run)),
        html.Section("curves", "Learning curves", shown["curves"]),
        html.Section("left", "What is left", _left(run, shown)),
        html.Section("between", "Between arms", _between(run)),
        html.Section("claims", "Claims of the paper", _claims(run)),
        html.Section("all", "All results", tables.all_results(run)),
        html.Section("how", "How it was run", _how(run)),
    ]


def _arms(run):
    known = {name: ARMS[name].start for name in run.arms if name in ARMS}
    if not known:
        return ""
    return html.details("What the arms are", tables.arms(known))


def _left(run, shown):
    table = ""
    if run.tickets.layers:
        levels = run.levels("ticket")
        table = tables.layer_densities(run.tickets, levels)
    return shown["left"] + table + shown["weights"]


def _between(run):
    body = tables.between_arms(run)
    if not body:
        return ""
    if run.trials == 1:
        note = (
            "Differences in test accuracy at early stop and in early-stop "
            "iteration. One trial is no test of them."
        )
    else:
        note = (
            "Differences in test accuracy at early stop and in early-stop "
            "iteration, paired by trial: mean [minimum, maximum]. p: exact "
            "two-sided "
            f"sign-flip test over {run.trials} trials, which cannot give "
            f"less than {2 / 2**run.trials:.3g}. It is not corrected for the "
            "number of rows; the row of means is one test where the levels "
            "are many."
        )
    return html.paragraph(note, "note") + body


def _claims(run):
    found = claims.check(CLAIMS, [(run.experiment, run.results)])
    name = claims.network(run.experiment)
    about = [v for v in found if name in v.claim.models]
    if not about:
        return html.paragraph(f"The paper claims nothing about {name}.")
    body = html.paragraph(
        html.Markup(
            f"{_PAPER}. The rule: reproduced, if at least three trials have "
            "it, on average and each of them; not reproduced, if their mean "
            "does not; else undecided."
        ),
        "note",
    )
    body += _other_than_the_paper(run.experiment)
    return body + tables.verdicts(about)


def _other_than_the_paper(settings):
    """Says so if it was not the paper's experiment."""
    known = recipes.RECIPES
    if settings.get("dropout"):
        known = recipes.DROPOUT_RECIPES
    recipe = known.get(settings["model"])
    theirs = recipe and (recipe.dataset, recipe.iterations)
    if not theirs or theirs == (settings["dataset"], settings["iterations"]):
        return ""
    text = (
        f"The claims are about {theirs[0]} with {theirs[1]:,} iterations; "
        f"this is {settings['dataset']} with {settings['iterations']:,}. Its "
        "verdicts are not on the paper's experiment."
    )
    return html.paragraph(text, "warning")


def _how(run):
    body = "".join(map(_environment, run.environments))
    if not body:
        body = html.paragraph(
            "Command, versions and hardware were not recorded.", "note"
        )
    total = sum({_training(r): r.seconds for r in run.results}.values())
    body += html.paragraph(
        f"The trainings shown took {duration(total)} in all, one after the "
        "other."
    )
    settings = html.definitions(
        (name, _setting(value)) for name, value in run.experiment.items()
    )
    return (
        body
        + html.details("All settings", settings)
        + html.paragraph(
            "The figures are also in the directory figures as PNG and SVG, "
            "the numbers in results.csv, masks and weights in tickets.",
            "note",
        )
    )


def _training(result):
    """What tells trainings apart that several arms share, as level 0."""
    return (result.trial, result.level, result.seconds, result.density)


def _environment(entry):
    versions = ", ".join(f"{k} {v}" for k, v in entry["versions"].items())
    devices = entry["gpus"] or ["none"]
    return html.command(entry["command"]) + html.definitions(
        [
            ("Started", entry["started"]),
            ("Versions", versions),
            ("System", entry["platform"]),
            ("Processor", f"{entry['cpu']}, {plural(entry['cores'], 'core')}"),
            ("Memory", f"{entry['memory_gib']:.1f} GiB"),
            ("GPU", ", ".join(devices)),
            (
                "Threads",
                f"{entry['threads']} per operation, "
                f"{plural(entry['workers'], 'worker')}",
            ),
        ]
    )


def _setting(value):
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "\N{EN DASH}"
    if isinstance(value, dict):
        return json.dumps(value)
    return "default" if value is None else value
