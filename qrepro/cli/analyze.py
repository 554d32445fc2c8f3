"""`qrepro analyze ...`: on run folders, or on the detections of any other detector."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qrepro.cli import inputs
from qrepro.cli import options as o

if TYPE_CHECKING:
    from qrepro.metrics.coco_ap import APResult
    from qrepro.plots import Plot

app = typer.Typer(
    help="Analyses of evaluated runs or of other detectors' result files; tables as CSV and markdown, figures as PNG, "
    "SVG and CSV.",
    no_args_is_help=True,
)

Runs = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[RUN]...", help="Run folders, or folders that hold some. \\[default: all in RESULTS]"),
]
Results = Annotated[Path, typer.Option("--results", help="Folder of the runs.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write to. \\[default: RESULTS/analysis]")]
Detections = Annotated[
    list[Path] | None,
    typer.Option(
        "--detections",
        help="COCO result file (.json, .json.gz) or Parquet of any detector, or MMDetection's folder of JSON files; "
        "repeatable.",
    ),
]
Annotations = Annotated[
    Path | None, typer.Option("--annotations", help="Their ground truth: COCO file (.json, .json.gz) or VOC folder.")
]
Split = Annotated[str | None, typer.Option("--split", help="Of a VOC folder. \\[default: test, val or all]")]
Classes = Annotated[
    str | None, typer.Option("--classes", help="Of a VOC folder, in the order of their ids: A,B,C. \\[default: sorted]")
]
ClassesFrom = Annotated[
    int | None,
    typer.Option(
        "--classes-from",
        min=0,
        max=1,
        help="Files whose category_id counts the categories of the annotations, in their order, from 0 or 1. "
        "\\[default: it is their id]",
    ),
]
Rules = Annotated[
    list[str] | None, typer.Option("--rule", help="Scoring rule of runs, or all; repeatable. \\[default: the recipe's]")
]
MaxDets = Annotated[int, typer.Option("--max-dets", min=1, help="Detections per image (and class) that count.")]
Draws = Annotated[int, typer.Option("--draws", min=1, help="Of the bootstrap over images.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the random draws.")]


@app.command("ap")
def ap(
    runs: Runs = None,
    detections: Detections = None,
    annotations: Annotations = None,
    split: Split = None,
    classes: Classes = None,
    classes_from: ClassesFrom = None,
    rule: Rules = None,
    thresholds: Annotated[
        str | None,
        typer.Option("--thresholds", help="IoU thresholds: 0.5,0.75 or first:last:step. \\[default: COCO's]"),
    ] = None,
    max_dets: MaxDets = 100,
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
    results: Results = o.RESULTS,
    out: Out = None,
) -> None:
    """AP at every threshold, by size, per class; VOC mAP, also by size; precision-recall curves."""
    from qrepro.metrics.area_ranges import size_note, size_text
    from qrepro.metrics.coco_ap import ap_metrics, class_metrics, evaluate
    from qrepro.metrics.matching import COCO_THRESHOLDS
    from qrepro.metrics.voc_ap import voc_rows

    levels = tuple(o.numbers(thresholds, "--thresholds")) if thresholds else COCO_THRESHOLDS
    parted = inputs.sizes(sizes, "--sizes")
    files = inputs.Files(detections, annotations, split, classes, classes_from)
    rows, pascal, categories, drawn = [], [], [], []
    for found in inputs.sets(files, runs, rule or ["all"], results):
        result = evaluate(found.truths, found.detections, levels, max_dets, engine, parted)
        about = {"run": found.name, "rule": found.rule}
        rows.append({**about, "sizes": size_text(parted), **ap_metrics(result)})
        if voc:
            pascal += [{**about, **row} for row in voc_rows(found.truths, found.detections, levels, parted)]
        categories += [{**about, **row} for row in class_metrics(result)]
        if curves and (rule or found.own):
            title = f"{found.name}: {found.rule}"
            drawn.append((o.file_name(title), _curves(result, title)))
    left_out = {row["category"] for row in categories if math.isnan(row["AP"])}
    notes = [f"{size_note(parted)}."]
    notes += [f"Without truth, so in no mean: {', '.join(sorted(left_out))}."] if left_out else []
    _write(rows, "ap", results, out, notes=notes)
    if voc:
        _write(pascal, "ap_voc", results, out, notes=[*notes, "mAP, mAPS, mAPM and mAPL are at IoU 0.5."])
    if per_class:
        _write(categories, "ap_classes", results, out)
    for name, figure in drawn:
        _draw(figure, f"precision_recall-{name}", results, out)


def _curves(result: APResult, title: str) -> Plot:
    """Precision against recall, a line per threshold."""
    from qrepro.plots import precision_recall

    lines = {f"IoU {t:g}": result.precision[i, :, :, 0, -1] for i, t in enumerate(result.thresholds)}
    return precision_recall(result.recalls, lines, graded=True, title=title)


@app.command("pcc")
def pcc(
    runs: Runs = None,
    detections: Detections = None,
    annotations: Annotations = None,
    split: Split = None,
    classes: Classes = None,
    classes_from: ClassesFrom = None,
    rule: Rules = None,
    over: Annotated[
        str | None,
        typer.Option("--over", help="positives, candidates or detections. \\[default: positives; files: detections]"),
    ] = None,
    by: Annotated[list[str] | None, typer.Option("--by", help="Also by class or size; repeatable.")] = None,
    floor: Annotated[float, typer.Option("--floor", help="Candidates or detections of a score above this.")] = 0.0,
    statistics: Annotated[
        str | None,
        typer.Option("--statistics", help="Of pearson,spearman,kendall,concordance,bias,slope. \\[default: all]"),
    ] = None,
    results: Results = o.RESULTS,
    out: Out = None,
) -> None:
    """Correlation of estimated and true IoU with intervals: GFLv2's PCC, and what it does not show."""
    from qrepro.metrics.correlation import STATISTICS
    from qrepro.metrics.pairs import correlation_study

    wanted = tuple(statistics.split(",")) if statistics else STATISTICS
    files = inputs.Files(detections, annotations, split, classes, classes_from)
    samples = list(inputs.pairs_of(files, runs, rule, over, floor, results))
    rows = [row for pairs in samples for row in correlation_study(pairs, statistics=wanted)]
    _write(rows, "pcc", results, out, digits=3)
    for group in by or []:
        grouped = [row for pairs in samples for row in correlation_study(pairs, [group], [(0.0, 1.0)], wanted)]
        _write(grouped, f"pcc_by_{group}", results, out, digits=3)
        if "pearson" in wanted:
            from qrepro.plots import correlation_by_group

            lines: dict[str, list[dict[str, Any]]] = {}
            for row in grouped:
                lines.setdefault(f"{row.pop('run')}: {row['estimate']}", []).append(row)
            about = f"Over {samples[0].about['over']}; intervals of 95 %, clustered by image."
            plot = correlation_by_group(lines, group, ordered=group == "size", about=about)
            _draw(plot, f"pcc_by_{group}_intervals", results, out)


@app.command("oracle")
def oracle(
    runs: Runs = None,
    detections: Detections = None,
    annotations: Annotations = None,
    split: Split = None,
    classes: Classes = None,
    classes_from: ClassesFrom = None,
    alpha: Annotated[
        list[str] | None,
        typer.Option("--alpha", help="For files: alphas of score^a IoU^(1-a), 0.5, 0.3,0.5 or first:last:step."),
    ] = None,
    engine: o.Engine = None,
    results: Results = o.RESULTS,
    out: Out = None,
) -> None:
    """What a perfect estimate would be worth.

    Runs: AP against alpha, with the estimate and with the true IoU, before NMS; evaluate with --oracle-iou --alpha
    first. Files hold detections after NMS: they are ranked again by IoU, which bounds what a better order would give.
    """
    from qrepro.metrics.coco_ap import ap_metrics, evaluate
    from qrepro.metrics.oracle import alpha_rows, reranked

    files = inputs.Files(detections, annotations, split, classes, classes_from)
    if files.given:
        alphas = [a for text in alpha or [] for a in o.numbers(text, "--alpha")]
        rows = [
            {"run": found.name, **about, **ap_metrics(evaluate(found.truths, frame, engine=engine))}
            for found in inputs.foreign(files, runs)
            for about, frame in reranked(found.truths, found.detections, alphas)
        ]
    else:
        rows = [
            {"run": run.name, **row} for run in inputs.chosen(runs, results) for row in alpha_rows(run.metrics["rules"])
        ]
    _write(rows, "oracle", results, out)


@app.command("calibration")
def calibration(
    runs: Runs = None,
    detections: Detections = None,
    annotations: Annotations = None,
    split: Split = None,
    classes: Classes = None,
    classes_from: ClassesFrom = None,
    rule: Rules = None,
    tau: Annotated[
        float | None, typer.Option("--tau", help="IoU of a true positive. \\[default: each metric's]")
    ] = None,
    floor: Annotated[float | None, typer.Option("--floor", help="Lowest score. \\[default: each metric's]")] = None,
    bins: Annotated[
        int | None, typer.Option("--bins", min=1, help="Of equal width. \\[default: each metric's]")
    ] = None,
    pooling: Annotated[str | None, typer.Option("--pooling", help="all or class. \\[default: each metric's]")] = None,
    max_dets: MaxDets = 100,
    results: Results = o.RESULTS,
    out: Out = None,
) -> None:
    """D-ECE, LaECE, LaECE0 and LaACE0, with reliability diagrams; all that defines a value is in its row."""
    from qrepro.metrics.calibration import METRICS, calibration_rows, reliability_rows
    from qrepro.plots import reliability

    given = {"tau": tau, "floor": floor, "pooling": pooling}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    metrics = [replace(metric, **changes, bins=bins if bins and metric.bins else metric.bins) for metric in METRICS]
    binned = [metric for metric in metrics if metric.bins]
    files = inputs.Files(detections, annotations, split, classes, classes_from)
    rows, points = [], []
    panels: dict[str, dict[str, list[dict[str, Any]]]] = {metric.name: {} for metric in binned}
    for found in inputs.sets(files, runs, rule, results):
        about = {"run": found.name, "rule": found.rule}
        values = calibration_rows(found.truths, found.detections, metrics, max_dets=max_dets)
        rows += [{**about, **row} for row in values]
        diagram = reliability_rows(found.truths, found.detections, binned, max_dets=max_dets)
        points += [{**about, **row} for row in diagram]
        for row in values:
            if row["metric"] in panels:
                title = f"{found.name}: {found.rule}\n{row['metric']} {row['value']:.3f}, n = {row['n']:,}"
                mine = [bin_ for bin_ in diagram if bin_["metric"] == row["metric"] and bin_["class"] == "all"]
                panels[row["metric"]][title] = mine
    _write(rows, "calibration", results, out, digits=3)
    _write(points, "reliability", results, out, digits=3, shown=False)
    for metric in binned:
        how = f"tau {metric.tau:g}, score from {metric.floor}, {metric.bins} bins, pooling {metric.pooling}"
        observed = "observed precision" if metric.target == "precision" else "observed precision × mean IoU"
        plot = reliability(panels[metric.name], "score", observed, f"{metric.name}: {how}.")
        _draw(plot, f"reliability-{metric.name}", results, out)


@app.command("lrp")
def lrp(
    runs: Runs = None,
    detections: Detections = None,
    annotations: Annotations = None,
    split: Split = None,
    classes: Classes = None,
    classes_from: ClassesFrom = None,
    rule: Rules = None,
    tau: Annotated[float, typer.Option("--tau", help="IoU of a true positive.")] = 0.5,
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="LRP of detections from this score. \\[default: oLRP, the best]")
    ] = None,
    max_dets: MaxDets = 100,
    results: Results = o.RESULTS,
    out: Out = None,
) -> None:
    """Optimal localisation recall precision error (oLRP) with its three parts, per class and their mean."""
    from qrepro.metrics.lrp import lrp_rows

    files = inputs.Files(detections, annotations, split, classes, classes_from)
    rows = [
        {"run": found.name, "rule": found.rule, **row}
        for found in inputs.sets(files, runs, rule, results)
        for row in lrp_rows(found.truths, found.detections, tau, threshold=threshold, max_dets=max_dets)
    ]
    _write(rows, "lrp", results, out, digits=3)


@app.command("compare")
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Run, folder of seeds, or result file: the baseline.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="What is compared with it.")],
    annotations: Annotations = None,
    split: Split = None,
    classes: Classes = None,
    classes_from: ClassesFrom = None,
    rule_a: Annotated[str | None, typer.Option("--rule-a", help="Scoring rule of A. \\[default: its recipe's]")] = None,
    rule_b: Annotated[str | None, typer.Option("--rule-b", help="Scoring rule of B. \\[default: its recipe's]")] = None,
    draws: Draws = 1000,
    seed: Seed = 0,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", help="Training seeds of a side: fixed or resampled. \\[default: resampled if several]"),
    ] = None,
    interval: Annotated[str, typer.Option("--interval", help="centred or percentile.")] = "centred",
    max_dets: MaxDets = 100,
    results: Results = o.RESULTS,
    out: Out = None,
) -> None:
    """Paired bootstrap over images: is B better than A in AP and in correlation, or luckier?

    The correlation is that of the positives' estimates where both have some, else that of scores and IoU_eval.
    """
    from qrepro.plots import difference_interval
    from qrepro.statistics.comparison import compare as paired

    files = inputs.Files([a, b], annotations, split, classes, classes_from)
    sides = [inputs.side(path, rule, files) for path, rule in ((a, rule_a), (b, rule_b))]
    options: dict[str, Any] = {"seeds": seeds, "interval": interval, "max_dets": max_dets}
    precision, correlation = paired(sides[0], sides[1], draws=draws, seed=seed, **options)
    names = [f"{side[0][1].name}: {side[0][1].rule}" for side in sides]
    notes = [f"a: {names[0]}", f"b: {names[1]}"]
    _write([*precision, *correlation], "compare", results, out, digits=3, notes=notes)
    drawn = f"{draws} paired draws of {precision[0]['images']} images"
    about = f"b - a with intervals of 95 %, {drawn}. b: {names[1]}. a: {names[0]}."
    _draw(
        difference_interval(precision, xlabel="difference of AP (points)", about=about),
        "compare_intervals",
        results,
        out,
    )


@app.command("distributions")
def distributions(
    runs: Runs = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the pictures: draws the side distributions of boxes too.")
    ] = None,
    number: Annotated[int, typer.Option("--number", min=1, help="Pictures that are drawn.")] = 3,
    results: Results = o.RESULTS,
    out: Out = None,
) -> None:
    """Histograms of quality labels and regression targets (GFL figures 12, 5c); with --images single boxes (3, 13)."""
    from qrepro.report.figures import histograms, single_boxes

    found = inputs.chosen(runs, results)
    drawn = list(histograms(found))
    if not drawn:
        raise ValueError("no run has the labels of its positives: evaluate it again with `qrepro eval`")
    for count, plot in enumerate(drawn):
        _draw(plot, f"labels-{count}" if count else "labels", results, out)
    if images:
        known = [run for run in found if run.has("distributions.parquet")]
        if not known:
            raise ValueError("--images: no run has side distributions; a recipe with `box: {kind: general}` has")
        for run in known:
            for name, plot in single_boxes(run, images, number):
                _draw(plot, f"distribution-{o.file_name(run.name)}-{name}", results, out)


@app.command("matches")
def matches(
    runs: Runs = None,
    bins: Annotated[
        str,
        typer.Option(
            "--bins",
            help="Of scale: a number of equal width (16), of equally many truths (quantile:16), or edges in px of the "
            "network's input (0,32,96,320).",
        ),
    ] = "16",
    results: Results = o.RESULTS,
    out: Out = None,
) -> None:
    """Boxes matched to a truth against its scale, before and after the first step, and how evenly (PASSD, figure 2)."""
    from qrepro.metrics.positives_by_scale import evenness_rows, matched_rows, stage_counts
    from qrepro.plots import matched_boxes

    edges = inputs.bins(bins, "--bins")
    found = inputs.chosen(runs, results)
    known = [run for run in found if run.has("matches.parquet")] or found  # of none, the first says what it lacks
    left_out = [run.name for run in found if run not in known]
    notes = [f"Left out, evaluate again: {', '.join(left_out)}."] if left_out else []
    rows, spread = [], []
    drawn = {}
    for run in known:
        side = run.matches["side"]
        points = matched_rows(side, stage_counts(run.matches), edges(side))
        rows += [{"run": run.name, **row} for row in points]
        spread += [{"run": run.name, **row} for row in evenness_rows(points)]
        about = f"Truths of the evaluation images, split {run.metrics['split']}."
        drawn[o.file_name(run.name)] = matched_boxes(points, run.name, about)
    _write(rows, "matches", results, out, digits=3, shown=False)
    _write(spread, "matches_evenness", results, out, digits=3, notes=notes)
    for name, figure in drawn.items():
        _draw(figure, f"matches-{name}", results, out)


@app.command("boxes")
def boxes(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run with candidates.")],
    images: Annotated[Path, typer.Option("--images", help="Folder of the pictures.")],
    rule: Annotated[str | None, typer.Option("--rule", help="Scoring rule. \\[default: the recipe's]")] = None,
    number: Annotated[int, typer.Option("--number", min=1, help="Pictures that are drawn.")] = 3,
    results: Results = o.RESULTS,
    out: Out = None,
) -> None:
    """Boxes of single pictures before and after suppression, with their scores and true IoU (GFLv2, figure 7)."""
    from qrepro.report.figures import suppressed

    for one in inputs.chosen([run], results):
        for name, plot in suppressed(one, images, rule or one.rule, number):
            _draw(plot, f"boxes-{o.file_name(one.name)}-{name}", results, out)


@app.command("speed")
def speed(
    table: Annotated[str, typer.Argument(metavar="PAPER/TABLE", help="A table with fps and AP: gflv2/table7.")],
    results: Results = o.RESULTS,
    out: Out = None,
) -> None:
    """AP against time per picture of the models of a printed table (GFLv2, figure 6)."""
    from qrepro.cli.rows import table_files
    from qrepro.papers.tables import read_table
    from qrepro.report.figures import printed_speed

    for path in table_files(table):
        name = f"{path.parent.name}-{path.stem}"
        _draw(
            printed_speed(read_table(path), f"{path.parent.name}, {path.stem}, as printed."),
            f"speed-{name}",
            results,
            out,
        )


@app.command("plot")
def plot(
    runs: Runs = None,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Points drawn of each cloud.")] = 10_000,
    seed: Annotated[int, typer.Option("--seed", help="Of the sample.")] = 0,
    results: Results = o.RESULTS,
    out: Out = None,
) -> None:
    """Every figure of the runs: clouds, AP against alpha and threshold, reliability, labels, losses."""
    from qrepro.report.figures import figures

    for stem, drawn in figures(inputs.chosen(runs, results), sample, seed).items():
        _draw(drawn, stem, results, out or results / "figures")


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
    from qrepro.cli import show
    from qrepro.papers.tables import write_rows

    if shown:
        show.table(rows, digits=digits)
        for note in notes or []:
            typer.echo(note)
    path = (out or results / "analysis") / f"{name}.csv"
    for written in write_rows(rows, path, title=f"analyze {name}", notes=notes or []):
        typer.echo(written)


def _draw(drawn: Plot, stem: str, results: Path, out: Path | None) -> None:
    """A figure as PNG and SVG, with its points as CSV."""
    for path in drawn.save((out or results / "analysis") / stem):
        typer.echo(path)
