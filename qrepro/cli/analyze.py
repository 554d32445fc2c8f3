"""`qrepro analyze ...`: on run folders, or on the detections of any other detector."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qrepro.cli import options as o
from qrepro.cli.help import group

if TYPE_CHECKING:
    from qrepro.plots import Plot

app = group(
    "Analyses of evaluated runs or of other detectors' result files; tables as CSV and markdown, figures as PNG, SVG "
    "and CSV."
)


@app.command("ap")
def ap(
    paths: o.Paths = None,
    annotations: o.Annotations = None,
    split: o.Split = None,
    classes: o.Classes = None,
    classes_from: o.ClassesFrom = None,
    rule: o.Rules = None,
    thresholds: Annotated[
        str | None,
        typer.Option("--thresholds", help="IoU thresholds: 0.5,0.75 or first:last:step. \\[default: COCO's]"),
    ] = None,
    max_dets: o.MaxDets = 100,
    voc: Annotated[bool, typer.Option("--voc", help="Also VOC's mAP, 11-point and all-point, as a table.")] = False,
    sizes: Annotated[
        str,
        typer.Option(
            "--sizes", help="Sides in px that part small, medium, large: coco (32,96), passd (64,192) or LOW,HIGH."
        ),
    ] = "coco",
    per_class: Annotated[bool, typer.Option("--per-class", help="Also a table with a row per class.")] = False,
    curves: Annotated[bool, typer.Option("--curves", help="Also precision-recall curves and their points.")] = False,
    engine: o.Engine = None,
    results: o.Results = o.RESULTS,
    out: o.Out = None,
) -> None:
    """AP at every threshold, by size, per class; VOC mAP, also by size; precision-recall curves."""
    from qrepro.metrics.area_ranges import size_note, size_text
    from qrepro.metrics.coco_ap import ap_metrics, class_metrics, evaluate_ap
    from qrepro.metrics.matching import COCO_THRESHOLDS
    from qrepro.metrics.voc_ap import voc_rows
    from qrepro.plots import result_curves

    levels = tuple(o.numbers(thresholds, "--thresholds")) if thresholds else COCO_THRESHOLDS
    sides = o.area_sides(sizes, "--sizes")
    sources = o.sources(paths, annotations, split, classes, classes_from, results)
    rows, voc_table, class_table, figures = [], [], [], []
    for found in sources.sets(rule or ["all"]):
        result = evaluate_ap(found.ground_truth, found.detections, levels, max_dets, engine, sides)
        about = {"run": found.name, "rule": found.rule}
        rows.append({**about, "sizes": size_text(sides), **ap_metrics(result)})
        if voc:
            voc_table += [{**about, **row} for row in voc_rows(found.ground_truth, found.detections, levels, sides)]
        class_table += [{**about, **row} for row in class_metrics(result)]
        if curves and (rule or found.own):
            title = f"{found.name}: {found.rule}"
            figures.append((title, result_curves(result, title)))
    absent = {str(row["category"]) for row in class_table if math.isnan(float(row["AP"]))}
    notes = [f"{size_note(sides)}."]
    notes += [f"Without ground truth, so in no mean: {', '.join(sorted(absent))}."] if absent else []
    _write(rows, "ap", results, out, notes=notes)
    if voc:
        _write(voc_table, "ap_voc", results, out, notes=[*notes, "mAP, mAPS, mAPM and mAPL are at IoU 0.5."])
    if per_class:
        _write(class_table, "ap_classes", results, out)
    for title, figure in figures:
        _draw(figure, f"precision_recall-{_stem(title)}", results, out)


@app.command("pcc")
def pcc(
    paths: o.Paths = None,
    annotations: o.Annotations = None,
    split: o.Split = None,
    classes: o.Classes = None,
    classes_from: o.ClassesFrom = None,
    rule: o.Rules = None,
    over: Annotated[
        str | None,
        typer.Option(
            "--over", help="Boxes: positives, candidates or detections. \\[default: positives; of files detections]"
        ),
    ] = None,
    by: Annotated[list[str] | None, typer.Option("--by", help="Also by class or size; repeatable.")] = None,
    score_thr: o.ScoreThr = None,
    statistics: Annotated[
        str | None,
        typer.Option("--statistics", help="Of pearson,spearman,kendall,concordance,bias,slope. \\[default: all]"),
    ] = None,
    results: o.Results = o.RESULTS,
    out: o.Out = None,
) -> None:
    """Correlation of estimated and true IoU with intervals: GFLv2's PCC, and what it does not show."""
    from qrepro.metrics.correlation import STATISTICS
    from qrepro.metrics.pairs import correlation_study, source_pairs
    from qrepro.plots import correlation_by_group

    wanted = tuple(statistics.split(",")) if statistics else STATISTICS
    sources = o.sources(paths, annotations, split, classes, classes_from, results)
    samples = list(source_pairs(sources, over, rules=rule or (), score_thr=score_thr or 0.0))
    rows = [row for pairs in samples for row in correlation_study(pairs, statistics=wanted)]
    _write(rows, "pcc", results, out, digits=3)
    for name in by or []:
        grouped = [row for pairs in samples for row in correlation_study(pairs, [name], [(0.0, 1.0)], wanted)]
        _write(grouped, f"pcc_by_{name}", results, out, digits=3)
        if "pearson" in wanted:
            lines: dict[str, list[dict[str, Any]]] = {}
            for row in grouped:
                lines.setdefault(f"{row.pop('run')}: {row['estimate']}", []).append(row)
            about = f"Over {samples[0].about['over']}; intervals of 95 %, clustered by image."
            plot = correlation_by_group(lines, name, ordered=name == "size", about=about)
            _draw(plot, f"pcc_by_{name}_intervals", results, out)


@app.command("oracle")
def oracle(
    paths: o.Paths = None,
    annotations: o.Annotations = None,
    split: o.Split = None,
    classes: o.Classes = None,
    classes_from: o.ClassesFrom = None,
    alpha: o.Alphas = None,
    engine: o.Engine = None,
    results: o.Results = o.RESULTS,
    out: o.Out = None,
) -> None:
    """What a perfect estimate would be worth.

    Runs: AP against alpha, with the estimate and with the true IoU, before NMS; evaluate with --oracle-iou --alpha
    first. Files hold detections after NMS: they are ranked again by IoU, which bounds what a better order would give;
    --alpha then weighs score^a IoU^(1-a).
    """
    from qrepro.metrics.oracle import alpha_rows, reranked_rows

    sources = o.sources(paths, annotations, split, classes, classes_from, results)
    if sources.files:
        alphas = o.alphas(alpha)
        rows = [
            {"run": found.name, **row}
            for found in sources.sets()
            for row in reranked_rows(found.ground_truth, found.detections, alphas, engine)
        ]
    else:
        rows = [{"run": run.name, **row} for run in sources.runs() for row in alpha_rows(run.metrics["rules"])]
    _write(rows, "oracle", results, out)


@app.command("calibration")
def calibration(
    paths: o.Paths = None,
    annotations: o.Annotations = None,
    split: o.Split = None,
    classes: o.Classes = None,
    classes_from: o.ClassesFrom = None,
    rule: o.Rules = None,
    tau: o.Tau = None,
    score_thr: o.ScoreThr = None,
    bins: Annotated[
        int | None, typer.Option("--bins", min=1, help="Bins of equal width. \\[default: each metric's]")
    ] = None,
    pooling: Annotated[str | None, typer.Option("--pooling", help="all or class. \\[default: each metric's]")] = None,
    max_dets: o.MaxDets = 100,
    results: o.Results = o.RESULTS,
    out: o.Out = None,
) -> None:
    """D-ECE, LaECE, LaECE0 and LaACE0, with reliability diagrams; all that defines a value is in its row."""
    from qrepro.metrics.calibration import METRICS, calibration_rows, reliability_rows
    from qrepro.plots import reliability

    given = {"tau": tau, "score_thr": score_thr, "pooling": pooling}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    metrics = [replace(metric, **changes, bins=bins if bins and metric.bins else metric.bins) for metric in METRICS]
    binned = [metric for metric in metrics if metric.bins]
    sources = o.sources(paths, annotations, split, classes, classes_from, results)
    rows, points = [], []
    panels: dict[str, dict[str, list[dict[str, Any]]]] = {metric.name: {} for metric in binned}
    for found in sources.sets(rule or ()):
        about = {"run": found.name, "rule": found.rule}
        values = calibration_rows(found.ground_truth, found.detections, metrics, max_dets=max_dets)
        rows += [{**about, **row} for row in values]
        diagram = reliability_rows(found.ground_truth, found.detections, binned, max_dets=max_dets)
        points += [{**about, **row} for row in diagram]
        for row in values:
            if row["metric"] in panels:
                title = f"{found.name}: {found.rule}\n{row['metric']} {row['value']:.3f}, n = {row['n']:,}"
                pooled = [bin_ for bin_ in diagram if bin_["metric"] == row["metric"] and bin_["class"] == "all"]
                panels[row["metric"]][title] = pooled
    _write(rows, "calibration", results, out, digits=3)
    _write(points, "reliability", results, out, digits=3, shown=False)
    for metric in binned:
        how = f"tau {metric.tau:g}, score from {metric.score_thr}, {metric.bins} bins, pooling {metric.pooling}"
        observed = "observed precision" if metric.target == "precision" else "observed precision × mean IoU"
        plot = reliability(panels[metric.name], "score", observed, f"{metric.name}: {how}.")
        _draw(plot, f"reliability-{metric.name}", results, out)


@app.command("lrp")
def lrp(
    paths: o.Paths = None,
    annotations: o.Annotations = None,
    split: o.Split = None,
    classes: o.Classes = None,
    classes_from: o.ClassesFrom = None,
    rule: o.Rules = None,
    tau: o.Tau = None,
    score_thr: o.ScoreThr = None,
    max_dets: o.MaxDets = 100,
    results: o.Results = o.RESULTS,
    out: o.Out = None,
) -> None:
    """Optimal localisation recall precision error (oLRP) with its three parts, per class and their mean.

    With --score-thr the LRP of the detections from this score on, in place of that at the best threshold.
    """
    from qrepro.metrics.lrp import lrp_rows

    sources = o.sources(paths, annotations, split, classes, classes_from, results)
    level = 0.5 if tau is None else tau
    rows = [
        {"run": found.name, "rule": found.rule, **row}
        for found in sources.sets(rule or ())
        for row in lrp_rows(found.ground_truth, found.detections, level, threshold=score_thr, max_dets=max_dets)
    ]
    _write(rows, "lrp", results, out, digits=3)


@app.command("compare")
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Run, folder of seeds, or result file: the baseline.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="What is compared with it.")],
    annotations: o.Annotations = None,
    split: o.Split = None,
    classes: o.Classes = None,
    classes_from: o.ClassesFrom = None,
    rule_a: Annotated[str | None, typer.Option("--rule-a", help="Score rule of A. \\[default: its recipe's]")] = None,
    rule_b: Annotated[str | None, typer.Option("--rule-b", help="Score rule of B. \\[default: its recipe's]")] = None,
    draws: o.Draws = 1000,
    seed: o.Seed = 0,
    training_seeds: Annotated[
        str | None,
        typer.Option("--training-seeds", help="Seeds of a side: fixed or resampled. \\[default: resampled if several]"),
    ] = None,
    interval: Annotated[str, typer.Option("--interval", help="centred or percentile.")] = "centred",
    max_dets: o.MaxDets = 100,
    results: o.Results = o.RESULTS,
    out: o.Out = None,
) -> None:
    """Paired bootstrap over images: is B better than A in AP and in correlation, or luckier?

    The correlation is that of the positives' estimates where both have some, else that of scores and IoU_eval.
    """
    from qrepro.plots import difference_interval
    from qrepro.statistics.comparison import compare as compare_sides
    from qrepro.statistics.comparison import compared_side

    sources = o.sources([a, b], annotations, split, classes, classes_from, results)
    sides = [compared_side(path, rule, sources) for path, rule in ((a, rule_a), (b, rule_b))]
    options: dict[str, Any] = {"seeds": training_seeds, "interval": interval, "max_dets": max_dets}
    precision, correlation = compare_sides(sides[0], sides[1], draws=draws, seed=seed, **options)
    names = [f"{found[0].name}: {found[0].rule}" for found in sides]
    notes = [f"a: {names[0]}", f"b: {names[1]}"]
    _write([*precision, *correlation], "compare", results, out, digits=3, notes=notes)
    drawn = f"{draws} paired draws of {precision[0]['images']} images"
    about = f"b - a with intervals of 95 %, {drawn}. b: {names[1]}. a: {names[0]}."
    figure = difference_interval(precision, xlabel="difference of AP (points)", about=about)
    _draw(figure, "compare_intervals", results, out)


@app.command("distributions")
def distributions(
    runs: o.RunPaths = None,
    images: o.Images = None,
    number: o.Number = 3,
    results: o.Results = o.RESULTS,
    out: o.Out = None,
) -> None:
    """Histograms of quality labels and regression targets (GFL figures 12, 5c); with --images single boxes (3, 13)."""
    from qrepro.records.run_folder import DISTRIBUTIONS
    from qrepro.report.figures import histograms, single_boxes

    evaluated = o.sources(runs, None, None, None, None, results).runs()
    drawn = list(histograms(evaluated))
    if not drawn:
        raise ValueError("no run has the labels of its positives: evaluate it again with `qrepro eval`")
    for count, plot in enumerate(drawn):
        _draw(plot, f"labels-{count}" if count else "labels", results, out)
    if images:
        known = [run for run in evaluated if run.has(DISTRIBUTIONS)]
        if not known:
            raise ValueError("--images: no run has side distributions; a recipe with `box_coder: {kind: general}` has")
        for run in known:
            for name, plot in single_boxes(run, images, number):
                _draw(plot, f"distribution-{_stem(run.name)}-{name}", results, out)


@app.command("matches")
def matches(
    runs: o.RunPaths = None,
    bins: Annotated[
        str,
        typer.Option(
            "--bins",
            help="Bins of scale: a number of equal width (16), of equally many objects (quantile:16), or edges in px "
            "of the network's input (0,32,96,320).",
        ),
    ] = "16",
    results: o.Results = o.RESULTS,
    out: o.Out = None,
) -> None:
    """Boxes assigned to an object against its scale, before and after the initial stage (PASSD, figure 2)."""
    from qrepro.metrics.positives_by_scale import evenness_rows, matched_rows, stage_counts
    from qrepro.plots import matched_boxes
    from qrepro.records.run_folder import ASSIGNMENTS

    edges = o.scale_bins(bins, "--bins")
    evaluated = o.sources(runs, None, None, None, None, results).runs()
    known = [run for run in evaluated if run.has(ASSIGNMENTS)] or evaluated  # of none, the first says what it lacks
    without = [run.name for run in evaluated if run not in known]
    notes = [f"Left out, evaluate again: {', '.join(without)}."] if without else []
    rows, evenness, figures = [], [], {}
    for run in known:
        side = run.assignments["side"]
        points = matched_rows(side, stage_counts(run.assignments), edges(side))
        rows += [{"run": run.name, **row} for row in points]
        evenness += [{"run": run.name, **row} for row in evenness_rows(points)]
        about = f"Objects of the evaluation images, split {run.metrics['split']}."
        figures[_stem(run.name)] = matched_boxes(points, run.name, about)
    _write(rows, "matches", results, out, digits=3, shown=False)
    _write(evenness, "matches_evenness", results, out, digits=3, notes=notes)
    for name, figure in figures.items():
        _draw(figure, f"matches-{name}", results, out)


@app.command("boxes")
def boxes(
    runs: o.RunPaths = None,
    images: o.Images = None,
    rule: o.Rules = None,
    number: o.Number = 3,
    results: o.Results = o.RESULTS,
    out: o.Out = None,
) -> None:
    """Boxes of single images before and after suppression, with their scores and true IoU (GFLv2, figure 7)."""
    from qrepro.report.figures import suppressed

    if images is None:
        raise ValueError("--images: names the folder of the images, which are drawn")
    for run in o.sources(runs, None, None, None, None, results).runs():
        for name in rule or [run.rule]:
            for image, plot in suppressed(run, images, name, number):
                _draw(plot, f"boxes-{_stem(f'{run.name}-{name}')}-{image}", results, out)


@app.command("speed")
def speed(
    which: Annotated[str, typer.Argument(metavar="PAPER/TABLE", help="A table with fps and AP: gflv2/table7.")],
    results: o.Results = o.RESULTS,
    out: o.Out = None,
) -> None:
    """AP against time per image of the detectors of a printed table (GFLv2, figure 6)."""
    from qrepro.experiments.run_index import table_files
    from qrepro.papers.tables import read_table
    from qrepro.report.figures import printed_speed

    for path in table_files(which):
        figure = printed_speed(read_table(path), f"{path.parent.name}, {path.stem}, as printed.")
        _draw(figure, f"speed-{path.parent.name}-{path.stem}", results, out)


@app.command("plot")
def plot(
    runs: o.RunPaths = None,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Points drawn of each cloud.")] = 10_000,
    seed: o.Seed = 0,
    results: o.Results = o.RESULTS,
    out: o.Out = None,
) -> None:
    """Every figure of the runs: clouds, AP against alpha and threshold, reliability, labels, losses."""
    from qrepro.report.figures import figures

    evaluated = o.sources(runs, None, None, None, None, results).runs()
    for stem, figure in figures(evaluated, sample, seed).items():
        _draw(figure, stem, results, out or results / "figures")


def _write(
    rows: list[dict[str, Any]],
    name: str,
    results: Path,
    out: Path | None,
    *,
    digits: int = 1,
    notes: list[str] | None = None,
    shown: bool = True,
) -> None:
    """Rows on the screen, as CSV and as markdown."""
    from qrepro.cli.terminal import terminal
    from qrepro.records.tables import write_rows

    if shown:
        terminal.table(rows, digits=digits)
        for note in notes or []:
            terminal.message(note)
    path = (out or results / "analysis") / f"{name}.csv"
    for written in write_rows(rows, path, title=f"analyze {name}", notes=notes or []):
        terminal.message(str(written))


def _draw(figure: Plot, stem: str, results: Path, out: Path | None) -> None:
    """A figure as PNG and SVG, with its points as CSV."""
    from qrepro.cli.terminal import terminal

    for path in figure.save((out or results / "analysis") / stem):
        terminal.message(str(path))


def _stem(text: str) -> str:
    """Text as part of a file name."""
    from qrepro.experiments.experiment import file_name

    return file_name(text)
