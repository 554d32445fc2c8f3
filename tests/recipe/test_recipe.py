import csv
import json
from pathlib import Path

import pytest
import yaml

from helpers.files import GOLDEN
from qrepro.experiments.experiment import run_path
from qrepro.priors import Anchors
from qrepro.quality import ESTIMATORS, ConvQuality
from qrepro.recipe import Recipe, names, read_recipe, recipe_root
from qrepro.recipe.axes import checked, filled, has_estimate, network_hash, resolve
from qrepro.recipe.build import build_detector, build_objective, build_postprocess
from qrepro.recipe.describe import facts
from qrepro.recipe.load import merge, profiles
from qrepro.recipe.schema import Schedule


def test_mappings_merge_unless_their_kind_changes():
    base = {"a": {"kind": "x", "p": 1, "q": 2}, "b": {"p": [1, 2]}, "c": 1}
    over = {"a": {"kind": "y", "r": 3}, "b": {"p": [3]}}
    assert merge(base, over) == {"a": {"kind": "y", "r": 3}, "b": {"p": [3]}, "c": 1}
    assert merge(base, {"a": {"p": 5}})["a"] == {"kind": "x", "p": 5, "q": 2}
    assert base["a"] == {"kind": "x", "p": 1, "q": 2}  # nothing is shared or changed


@pytest.mark.parametrize("name", names())
def test_every_recipe_resolves_on_every_profile(name):
    for profile in profiles():
        recipe = resolve(name, profile)
        assert recipe.profile == profile
        build_objective(recipe)
        build_postprocess(recipe)


@pytest.mark.parametrize("name", names())
def test_every_recipe_can_be_described_without_computing(name):
    found = facts(resolve(name))
    assert found["trained parameters"] <= found["parameters"] and found["giga multiply-adds"] > 0


def test_values_of_the_paper():
    """setup.md of arXiv 1912.05992: the ablation's settings."""
    recipe = resolve("iou_aware/grad_r50_600")
    assert recipe.schedule.batch * recipe.schedule.optimiser.lr / recipe.schedule.optimiser.lr_batch == 0.0075
    assert (recipe.schedule.epochs, recipe.schedule.decay.at, recipe.schedule.warmup.steps) == (12, [8, 11], 500)
    assert recipe.loss.quality.kind == "bce" and not recipe.loss.quality.detach
    assert resolve("iou_aware/detached_r50_600").loss.quality.detach
    assert resolve("iou_aware/l2_r50_600").loss.quality.kind == "l2"
    assert recipe.image.eval[0].options == {"short": 600, "long": 1000}
    x101 = resolve("iou_aware/grad_x101")
    assert (x101.backbone.options["groups"], x101.backbone.options["group_width"]) == (32, 4)


def test_resolving_one_recipe_leaves_no_trace_in_another():
    before = resolve("iou_aware/detached_r50").values()
    resolve("iou_aware/grad_x101", "bccd", ["schedule.batch=2"])
    assert resolve("iou_aware/detached_r50").values() == before


def test_a_recipe_equals_itself_after_a_round_trip_through_a_file():
    recipe = resolve("iou_aware/grad_r50", "shapes", ["schedule.batch=4"])
    again = checked(yaml.safe_load(yaml.safe_dump(recipe.values())), "a file")
    assert again == recipe and again.hash == recipe.hash
    assert isinstance(again.prior.build({"anchors": Anchors}).ratios, tuple)


PERFORMANCE = ["schedule.precision=bf16", "schedule.channels_last=true"]


def test_what_makes_a_training_fast_is_recorded_and_no_variant():
    recipe = resolve("iou_aware/grad_r50", overrides=[*PERFORMANCE, "schedule.batch=8"])
    assert recipe.variant == ["schedule.batch=8"] and len(recipe.overrides) == 3
    assert recipe.performance == {"precision": "bf16", "channels_last": True}
    plain, fast = (run_path(Path("results"), resolve("grad_r50", overrides=o), 0) for o in ([], PERFORMANCE))
    assert plain == fast == Path("results/iou_aware/grad_r50/coco/seed0")


def test_hashes_are_kept():
    """Runs of days are found by them: whoever changes one changes what is trained, or makes all runs of it stale."""
    kept = json.loads((GOLDEN / "hashes.json").read_text())
    found = {
        f"{name} on {profile}": read_recipe(name, profile).hash for name in names() for profile in ("coco", "shapes")
    }
    assert {key: value for key, value in found.items() if kept.get(key, value) != value} == {}
    assert set(kept) <= set(found)


def test_recipes_that_say_the_same_have_one_hash_and_others_have_not():
    """Held against the values with every default filled in: no recipe says a default that another one leaves out."""
    said, meant = {}, {}
    for name in names():
        recipe = resolve(name, "shapes")
        values = filled(recipe)
        for key in ("name", "profile", "overrides", "card", "score", "postprocess"):
            values.pop(key)
        content = json.dumps(without_null(values), sort_keys=True)
        said.setdefault(recipe.hash, set()).add(content)
        meant.setdefault(content, set()).add(recipe.hash)
    assert max(map(len, said.values())) == max(map(len, meant.values())) == 1
    assert len(said) > 60


def without_null(value):
    if isinstance(value, dict):
        return {key: without_null(inner) for key, inner in value.items() if inner is not None}
    return [without_null(inner) for inner in value] if isinstance(value, list) else value


def test_a_new_option_with_a_default_keeps_the_hash(monkeypatch):
    """And a default that is said in full is the same network."""

    class Later(ConvQuality):
        def __init__(self, context, *, later: bool = False) -> None:
            super().__init__(context)

    before = resolve("iou_aware/grad_r50")
    monkeypatch.setitem(ESTIMATORS, "conv", Later)
    after = resolve("iou_aware/grad_r50")
    assert after.quality.options == {"later": False} and after.hash == before.hash
    assert network_hash(after) == network_hash(before)
    told = resolve("iou_aware/grad_r50", overrides=["quality.later=false"])
    assert network_hash(told) == network_hash(before)
    assert network_hash(resolve("iou_aware/grad_r50", overrides=["quality.later=true"])) != network_hash(before)


def test_a_null_that_a_part_is_told_is_not_its_default():
    """FCOS without centre sampling (radius null) is no FCOS with it (radius 1.5, the default)."""
    plain, told = (
        resolve("gfl/atss_none", "shapes", [f"assign={{kind: ranges{more}}}"]) for more in ("", ", radius: null")
    )
    assert (plain.assign.options["radius"], told.assign.options["radius"]) == (1.5, None)
    assert plain.hash != told.hash


def test_the_last_override_of_a_key_counts_and_alone_is_recorded():
    twice = resolve("grad_r50", overrides=["schedule.batch=2", "schedule.clip=1", "schedule.batch=4"])
    once = resolve("grad_r50", overrides=["schedule.clip=1", "schedule.batch=4"])
    assert twice == once and twice.hash == once.hash and twice.overrides == ["schedule.batch=4", "schedule.clip=1"]


def test_hash_sees_training_and_nothing_else():
    base = resolve("iou_aware/grad_r50")
    assert (
        resolve(
            "iou_aware/grad_r50",
            overrides=["score=product", "postprocess.iou_thr=0.6", "schedule.log_every=1", *PERFORMANCE],
        ).hash
        == base.hash
    )
    changed = ["schedule.batch=8", "loss.quality.detach=true", "assign.positive=0.6", "data.limit=10", "image.pad=64"]
    hashes = {resolve("iou_aware/grad_r50", overrides=[c]).hash for c in changed}
    assert len(hashes | {base.hash}) == len(changed) + 1


def test_a_key_that_is_new_and_null_keeps_the_hash():
    class LaterSchedule(Schedule):
        later: float | None = None

    class Later(Recipe):
        schedule: LaterSchedule

    recipe = resolve("iou_aware/grad_r50", "shapes")
    values = recipe.values()
    assert Later.model_validate(values).hash == recipe.hash
    assert Later.model_validate(merge(values, {"schedule": {"later": 0.0}})).hash != recipe.hash
    assert resolve("iou_aware/grad_r50", "shapes", ["schedule.ema=null"]).hash != recipe.hash


CYCLES = "{cycles: 2, epochs: 1, lr: %s}"


@pytest.mark.parametrize(
    "name, profile, change, message",
    [
        ("iou_aware/grad_r5", "coco", None, "did you mean 'iou_aware/grad_r50'"),
        ("grad_r50", "cocoo", None, "did you mean 'coco'"),
        ("grad_r50", "coco", "schedule.bach=3", "schedule.bach: unknown key: did you mean 'batch'"),
        ("grad_r50", "coco", "loss.class.gama=3", "gama: unknown key: did you mean 'gamma'"),
        ("grad_r50", "coco", "losss.class.gamma=3", "losss: unknown key: did you mean 'loss'"),
        ("grad_r50", "coco", "assign.kind=maxiou", "did you mean 'max_iou'"),
        ("grad_r50", "coco", "assign.positive=high", "assign.positive: Input should be a valid number"),
        ("grad_r50", "coco", "score=powr-2", "score rule 'powr-2'"),
        ("retinanet_r50", "coco", "score=product", "needs a quality estimate"),
        ("grad_r50", "coco", "schedule.steps=3", "exactly one of epochs and steps"),
        ("grad_r50", "coco", "schedule.average={cycles: 2, lr: [0.1, 0.1]}", "average: needs exactly one of"),
        ("grad_r50", "coco", f"schedule.average={CYCLES % '[0.1, 0.2]'}", "average.lr: needs two learning rates"),
        ("grad_r50", "coco", f"schedule={{shorten: 2, average: {CYCLES % '[0.2, 0.1]'}}}", "and 2 cycles of"),
        ("grad_r50", "shapes", f"schedule.average={CYCLES % '[0.2, 0.1]'}", "schedule: ema and average: only one"),
        (
            "grad_r50",
            "coco",
            "head.scores=softmax",
            "loss.class: kind softmax and head.scores: softmax need each other",
        ),
        (
            "passd320",
            "coco",
            "head.scores=sigmoid",
            "loss.class: kind softmax and head.scores: softmax need each other",
        ),
        ("passd320", "coco", "initial.loss.class={kind: focal}", "initial.loss.class: kind softmax and head.scores"),
        ("passd320", "coco", "initial.refine=boxes", "initial.refine: Input should be 'encoding' or 'box'"),
        (
            "passd320",
            "coco",
            "assign={kind: atss}",
            "initial.reassign: only max_iou matches boxes that differ by image",
        ),
        ("vfnet/vfnet", "coco", "initial.box_coder={kind: delta}", "initial.box_coder: a correction of the encoding"),
        ("passd320", "coco", "loss.negatives=0", "loss.negatives: Input should be greater than 0"),
        ("grad_r50", "coco", "schedule.batch", "must look like"),
        ("grad_r50", "coco", "schedule.batch=[", "not a YAML value"),
        ("grad_r50", "coco", "backbone.depth=77", "depth"),
        ("missing.yaml", "coco", None, "no such file"),
    ],
)
def test_bad_input_is_one_clear_line(name, profile, change, message):
    with pytest.raises(ValueError) as error:
        resolve(name, profile, [change] if change else [])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_recipe_files_of_a_user(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: iou_aware/grad_r50\nquality: {kind: conv}\nscore: power-0.3\n")
    recipe = resolve(str(mine), "shapes")
    assert recipe.name == "custom/mine" and recipe.rule.name == "power-0.3"
    mine.write_text("extends: [a, : b\n")
    with pytest.raises(ValueError, match="broken YAML"):
        resolve(str(mine))
    mine.write_text("extends: mine\n")
    with pytest.raises(ValueError, match="extends itself"):
        resolve(str(mine))
    mine.write_text("extends: nothing/here\n")
    with pytest.raises(ValueError, match="does not exist"):
        resolve(str(mine))
    mine.write_text("- a list\n")
    with pytest.raises(ValueError, match="a recipe is a mapping"):
        resolve(str(mine))


SWEEPS = {*(("iou_aware", f"table{n}") for n in (3, 4, 6)), ("vfnet", "oracle")}  # rules of one recipe


@pytest.mark.parametrize("table", sorted(recipe_root().glob("*/*.csv")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_trained_row_of_a_table_names_a_recipe_and_a_rule(table):
    from qrepro.records.score_rule import Rule

    with table.open() as file:
        for row in csv.DictReader(file):
            assert row["origin"] in ("trained", "zoo", "cited")
            if row["origin"] == "trained":
                assert row["recipe"] in names(), row["row"]
            if row["recipe"]:
                recipe = resolve(row["recipe"], row["profile"], row["overrides"].split())
                rule = Rule.parse(row["rule"])
                assert has_estimate(recipe) or rule.kind == "class" or rule.oracle
                on_card = any(
                    p.row == row["row"] and str(p.table) == table.stem.removeprefix("table") for p in recipe.card.paper
                )
                sweep = row["overrides"] or (table.parent.name, table.stem) in SWEEPS
                assert on_card or sweep, f"{table.stem} {row['row']} is missing on the card of {row['recipe']}"


def test_values_of_gfl():
    """setup.md of arXiv 2006.04388, sections 1, 3 and 8."""
    recipe = resolve("gfl/gfl")
    assert (recipe.box_coder.kind, recipe.box_coder.options["n"], recipe.box_coder.options["delta"]) == (
        "general",
        16,
        1.0,
    )
    assert (recipe.loss.classes.kind, recipe.loss.classes.options["beta"], recipe.loss.classes.weight) == ("qfl", 2, 1)
    assert (recipe.loss.box.kind, recipe.loss.box.weight, recipe.loss.box.weight_by) == ("giou", 2.0, "score")
    assert (recipe.loss.encoding.kind, recipe.loss.encoding.weight, recipe.loss.encoding.weight_by) == (
        "dfl",
        0.25,
        "score",
    )
    assert recipe.loss.quality is None and recipe.quality.kind == "none" and recipe.rule.name == "class"
    assert recipe.schedule.optimiser.lr == 0.01 and recipe.schedule.batch == 16 and recipe.schedule.clip is None
    assert recipe.postprocess.options["iou_thr"] == 0.6
    double = resolve("gfl/r50_2x")
    assert (double.schedule.epochs, double.schedule.decay.at) == (24, [16, 22])
    assert double.image.train[0].options["short"] == [480, 800]


def test_variants_of_table_1a_differ_in_quality_alone():
    """The same parts in both hosts: what is laid on FCOS is laid on ATSS."""
    for variant in ("none", "iou", "centerness_guided", "iou_guided", "qfl", "gaussian", "general", "dfl"):
        changed = []
        for host in ("fcos", "atss"):
            plain, other = (resolve(f"gfl/{host}_{name}").values() for name in ("centerness", variant))
            changed.append({key for key in plain if plain[key] != other[key]} - {"name", "card"})
        assert changed[0] == changed[1] <= {"quality", "target", "loss", "score", "box_coder"}, variant


def test_a_recipe_adapts_to_a_profile_by_itself():
    assert resolve("gfl/atss_iou").prior.options["scale"] == 8
    assert resolve("gfl/atss_iou", "bccd").prior.options["scale"] == 4
    assert resolve("gfl/foveabox", "shapes").prior.options["scale"] == 1
    assert resolve("gfl/retinanet", "shapes").prior.options["octaves"] == 2
    assert resolve("gfl/retinanet", "bccd").prior.options["octaves"] == 3
    assert resolve("gfl/atss_iou", "bccd", ["prior.scale=6"]).prior.options["scale"] == 6


def test_measures_that_recipes_may_name_are_those_that_there_are():
    from typing import get_args

    from qrepro.recipe.parts import Measure, QualityLossPart
    from qrepro.target import MEASURES

    assert set(get_args(Measure)) == set(MEASURES)
    assert set(get_args(QualityLossPart.model_fields["target"].annotation)) < set(MEASURES)


def test_parts_that_do_not_fit_are_refused_when_a_detector_is_built():
    for change, message in (
        ("head.shared=true", r"head\.shared: levels of channels \(512, 1024, .* need heads of their own"),
        ("prior.ratios=[[2], [2]]", "8 sizes for 2 levels, which need one more"),
        ("prior={sizes: [8, 16, 32], ratios: [[2], [2]]}", "neck and prior: 7 levels, and values of 2"),
    ):
        with pytest.raises(ValueError, match=message):
            build_detector(resolve("gfl/ssd512", overrides=[change]))


def test_what_a_checkpoint_must_fit():
    """Another first step is another network; other losses, matching or sampling of data are not."""
    base = resolve("passd/passd320")
    for change in (
        "initial.box_coder.clip=false",
        "sampling.outputs=null",
        "sampling.outputs.share=0.1",
        "head.scores=sigmoid",
    ):
        changes = [change]
        if "sigmoid" in change:
            changes += ["loss.class={kind: focal}", "initial.loss.class={kind: focal}"]
        assert network_hash(resolve("passd/passd320", overrides=changes)) != network_hash(base), change
    for change in (
        "initial.loss.encoding.weight=2",
        "initial.assign.positive=0.6",
        "loss.negatives=5",
        "schedule.batch=8",
    ):
        assert network_hash(resolve("passd/passd320", overrides=[change])) == network_hash(base), change
        assert resolve("passd/passd320", overrides=[change]).hash != base.hash, change


def test_ssd_has_the_sizes_that_are_cited():
    """PASSD, tables 4 to 6: SSD512 36 M on COCO, SSD300 34.3 M; 8732 and 24564 boxes."""
    for name, millions, boxes in (("gfl/ssd512", 36.0, 24_564), ("passd/ssd300", 34.3, 8732)):
        found = facts(resolve(name))
        assert round(found["parameters"] / 1e6, 1) == millions and found["priors an image"] == boxes
    assert facts(resolve("passd/ssd300"))["priors a cell"] == [4, 6, 6, 6, 4, 4]
