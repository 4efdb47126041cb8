"""The page of a run: `report.html`, and its figures as files."""

import json
import os
import statistics

from keras_lottery.experiments import barriers
from keras_lottery.experiments.arms import ARMS
from keras_lottery.experiments.barriers import (
    instability,
    measure_connectivity,
)
from keras_lottery.experiments.run import Run
from keras_lottery.report import claims, geometry, html, tables
from keras_lottery.report.figures import (
    against_density,
    figures_of_run,
    geometry_of_run,
    tradeoff,
)
from keras_lottery.report.geometry import mask_distances
from keras_lottery.report.paper_claims import CLAIMS
from keras_lottery.report.statistics import Measurements
from keras_lottery.report.tables import duration, percent, plural
from keras_lottery.report.winning import headline

_PAPER = (
    'Frankle &amp; Carbin, <a href="https://arxiv.org/abs/1803.03635">The '
    "Lottery Ticket Hypothesis</a>, ICLR 2019"
)


def write(
    run_dir: str, connectivity: bool = False, data_dir: str | None = None
):
    """Writes `report.html`, `figure.png` and `figures/` of a run.

    The page is one file that needs no network and no script. A run that is
    not finished, or was written by an older version, is reported as far as it
    goes. Beside it are written `mask_distances.csv` and, of a run with
    `instability`, `instability.csv`.

    Args:
        run_dir: str or path-like, the directory of a run.
        connectivity: bool, whether the error barriers between successive
            levels are measured first, into connectivity.csv. Later reports
            show them too. It evaluates 30 networks for each level.
        data_dir: optional str, where TFDS has the data set of the run, for
            connectivity.

    Returns:
        A str, the path of `report.html`.

    Raises:
        ValueError: If the directory holds no run, or no result yet, or
            `data_dir` is given without `connectivity`.

    Example:

    ```python
    from keras_lottery import report
    from keras_lottery.experiments import Experiment

    Experiment(rounds=3, iterations=200).run("runs/digits")
    report.write("runs/digits")
    ```

    Source: the figures are those of Frankle & Carbin, 1803.03635.
    """
    run = Run.open(run_dir)
    if data_dir is not None and not connectivity:
        raise ValueError(
            "`data_dir` is read for `connectivity`, which must be True too. "
            f"Received: data_dir={data_dir!r}"
        )
    if connectivity:
        run.write_connectivity(measure_connectivity(run, data_dir))
    measurements = Measurements(run)
    figures = figures_of_run(measurements)
    figures["geometry"] = _geometry(run)
    frame = run.tradeoff
    figures["tradeoff"] = [] if frame is None else [tradeoff(frame)]
    _write_figures(measurements, figures)
    text = html.page(
        f"Lottery tickets: {_subject(measurements.experiment)}",
        _head(measurements),
        _sections(measurements, figures, frame),
    )
    run.write("report.html", text)
    return run.path("report.html")


def _geometry(run):
    """Writes the tables of the geometry of a run; returns its figures."""
    distances, unstable = mask_distances(run), instability(run)
    if distances:
        run.write("mask_distances.csv", geometry.to_csv(distances))
    if unstable:
        run.write("instability.csv", barriers.to_csv(unstable))
    return geometry_of_run(unstable, run.connectivity or [], distances)


def _write_figures(measurements, figures):
    run, experiment = measurements.run, measurements.experiment
    for figure in (one for part in figures.values() for one in part):
        for name, content in figure.files.items():
            run.write(os.path.join("figures", name), content)
    against_density(
        measurements.results,
        run.path("figure.png"),
        f"{_subject(experiment)}, {experiment['iterations']:,} iterations, "
        f"{plural(measurements.trials, 'trial')}",
    )


def _subject(experiment):
    return f"{experiment['model']} on {experiment['dataset']}"


def _head(measurements):
    sentence, rule = headline(measurements.results)
    parts = [
        html.paragraph(sentence, "result"),
        html.chips(_size(measurements)),
    ]
    done, planned = len(measurements.results), measurements.planned
    if done < planned:
        text = (
            f"This run is not finished: {done} of {plural(planned, 'result')} "
            "are there."
        )
        parts.append(html.paragraph(text, "warning"))
    if _budget_is_small(measurements.results):
        text = (
            "The budget may be too small: early stop is on average in the "
            "last twentieth of the iterations, so validation was still "
            "improving and early-stop iterations say little."
        )
        parts.append(html.paragraph(text, "warning"))
    if rule:
        parts.append(html.paragraph(rule, "note"))
    return "".join(parts)


def _size(measurements):
    """How much was run, as a list of short str."""
    experiment = measurements.experiment
    densities = measurements.levels(measurements.arms[0]).values()
    return [
        plural(measurements.trials, "trial"),
        plural(len(measurements.arms), "arm"),
        f"{plural(len(densities), 'level')}, "
        f"{percent(max(densities))} to {percent(min(densities))}",
        f"{experiment['iterations']:,} iterations of "
        f"{experiment['batch_size']}",
    ]


def _budget_is_small(results):
    shares = [r.early_stop_iteration / r.iterations for r in results]
    return statistics.fmean(shares) > 0.95


def _sections(measurements, figures, frame):
    grids = {
        part: html.grid(
            html.figure(one.inline(), one.title, one.caption) for one in found
        )
        if found
        else ""
        for part, found in figures.items()
    }
    left = grids["masks"] + _layers(measurements) + grids["weights"]
    return [
        html.Section(
            "results", "Results", grids["results"] + _arms(measurements)
        ),
        html.Section("curves", "Learning curves", grids["learning_curves"]),
        html.Section("left", "What is left", left),
        html.Section("geometry", "Geometry", grids["geometry"]),
        *_served(frame, grids["tradeoff"]),
        html.Section("between", "Between arms", _between_arms(measurements)),
        html.Section("claims", "Claims of the paper", _claims(measurements)),
        html.Section("all", "All results", tables.all_results(measurements)),
        html.Section("how", "How it was run", _how(measurements)),
    ]


def _served(frame, figure):
    if frame is None:
        return []
    table = html.details("All levels", tables.tradeoff(frame))
    return [html.Section("served", "Where it is served", figure + table)]


def _arms(measurements):
    known = {
        name: ARMS[name].start for name in measurements.arms if name in ARMS
    }
    if not known:
        return ""
    return html.details("What the arms are", tables.arms(known))


def _layers(measurements):
    tickets = measurements.tickets
    if not tickets.layers:
        return ""
    return tables.layer_densities(
        tickets,
        measurements.levels("ticket"),
        measurements.run.prunable_share,
    )


def _between_arms(measurements):
    body, trials = tables.between_arms(measurements), measurements.trials
    if not body:
        return ""
    note = (
        "Differences in test accuracy at early stop and in early-stop iteration"
    )
    if trials == 1:
        note += ". One trial is no test of them."
    else:
        note += (
            ", paired by trial: mean [minimum, maximum]. p: exact two-sided "
            f"sign-flip test over {trials} trials, which cannot give less "
            f"than {2 / 2**trials:.3g}. It is not corrected for the number of "
            "rows; the row of means is one test where the levels are many."
        )
    return html.paragraph(note, "note") + body


def _claims(measurements):
    experiment = measurements.experiment
    about = [c for c in CLAIMS if c.needs.model == experiment["model"]]
    if not about:
        return html.paragraph(
            f"The paper claims nothing about {experiment['model']}."
        )
    body = html.paragraph(html.Markup(f"{_PAPER}. {claims.RULE}"), "note")
    found = claims.check(about, [(experiment, measurements.results)])
    return body + tables.verdicts(found)


def _how(measurements):
    environments = measurements.run.environments
    results = measurements.results
    body = "".join(map(_environment, environments))
    if not body:
        body = html.paragraph(
            "Command, versions and hardware were not recorded.", "note"
        )
    # Several arms share a training, as that of level 0: it counts once.
    seconds = {
        (r.trial, r.level, r.seconds, r.density): r.seconds for r in results
    }
    body += html.paragraph(
        f"The trainings shown took {duration(sum(seconds.values()))} in all, "
        "one after the other."
    )
    settings = html.definitions(
        (name, _setting(value))
        for name, value in measurements.experiment.items()
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
