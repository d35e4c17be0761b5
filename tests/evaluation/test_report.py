"""Reports hold everything a figure depends on and nothing of the machine; comparisons and published rows are right."""

import builtins
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from handmim.cli import main
from handmim.errors import DataError
from handmim.evaluation import report
from handmim.evaluation.benchmarks import BENCHMARKS
from handmim.evaluation.compare import compare
from handmim.evaluation.curves import PlotError, plot
from handmim.evaluation.measures import MEASURES, formatted, heading
from handmim.evaluation.published import PUBLISHED, published_rows
from handmim.evaluation.scores import Curve, Scores


def scores(error: float = 7.0) -> Scores:
    thresholds = np.linspace(0, 50, 20)
    return Scores(
        metrics={"pa_mpjpe": error, "pa_mpvpe": error + 0.2, "f5": 0.7, "found": 3, "mpjpe": float("nan")},
        curves={"pa_auc_joints": Curve("joints", "mm", thresholds.tolist(), (thresholds / 50).tolist())},
        per_sample={"pa_mpjpe": np.array([1.0, np.nan, 3.0])},
        omitted={"masks": "not labelled"},
    )


def make(name: str = "model", error: float = 7.0, benchmark: str = "freihand", **changes: object) -> dict:
    plain = {
        "benchmark": benchmark, "title": "FreiHAND", "protocol": "rules", "split": "evaluation", "samples": 3,
        "scores": scores(error), "model": {"name": name}, "data": {"root_name": "data", "checksum": "abc"},
        "options": {"tta": None, "trained_on": None, "limit": None},
    }  # fmt: skip
    return report.build(**(plain | changes))


def saved(path: Path, **changes: object) -> Path:
    report.save(make(**changes), path)
    return path


# ---------------------------------------------------------------------------------------------------------------------
# Reports


def test_build_and_load(tmp_path: Path) -> None:
    made = make(notes=["a note"], official={"xyz_al_mean3d": 0.7}, baselines={"base": scores(20)})
    assert made["metrics"]["pa_mpjpe"] == {"value": 7.0, "unit": "mm"} and list(made["metrics"])[0] == "pa_mpjpe"
    assert "mpjpe" not in made["metrics"]  # NaN is no figure
    assert made["curves"]["pa_auc_joints"]["area"] == pytest.approx(0.5)
    assert made["versions"]["numpy"] == np.__version__ and made["created"].endswith("+00:00")
    report.save(made, tmp_path / "deep" / "r.json")
    assert report.load(tmp_path / "deep" / "r.json") == made
    text = report.text(made)
    for part in ("FreiHAND, evaluation: 3 samples", "PA-MPJPE, mm", "7.00", "base", "masks, not labelled", "a note"):
        assert part in text


def test_paths_are_cut(tmp_path: Path) -> None:
    notes = [f"{tmp_path / 'data' / 'x.json'} is odd", f"see {tmp_path}"]
    options = {"trained_on": [str(tmp_path / "data")]}
    made = make(notes=notes, options=options, private=[tmp_path / "data", tmp_path])
    assert made["notes"] == ["data/x.json is odd", f"see {tmp_path.name}"] and made["options"]["trained_on"] == ["data"]
    assert str(tmp_path) not in json.dumps(made)
    assert report.without_paths({"a": ["/"], 3: 4.5}, ["/", "relative"]) == {"a": ["/"], 3: 4.5}


def test_public_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert report.public_name("org/handmim-base") == "org/handmim-base"
    assert report.public_name("runs/mine") == report.public_name(str(tmp_path / "runs" / "mine")) == "mine"
    assert report.public_name(str(tmp_path / "gone" / "model")) == "model"


@pytest.mark.parametrize("folder", ["release", "checkpoint-40"])
def test_of_a_folder_that_every_run_has_the_run_is_named(folder: str, tmp_path: Path) -> None:
    """All of `handmim compare runs/*/report.json` were called release."""
    assert report.public_name(str(tmp_path / "mine" / folder)) == f"mine/{folder}"
    assert report.public_name(f"/{folder}") == folder


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "3", "{}", '{"format": "other"}', '{"format": "handmim evaluation report 1"}'],
)
def test_files_that_are_no_reports(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(DataError, match="r.json is not a report of handmim evaluate"):
        report.load(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("metrics", {"f5": {"value": "x"}}, "'f5' has no number"), ("metrics", [], "'metrics' is list"),
     ("curves", {"c": {"thresholds": [1, 2], "values": [1]}}, "curve 'c'"), ("samples", "3", "'samples' is str"),
     ("curves", {"c": {"thresholds": [1], "values": ["x"]}}, "no number"), ("baselines", {"b": 3}, "no dict"),
     ("curves", {"c": 1}, "curve 'c'"), ("data", None, "'data' is NoneType"), ("groups", [], "'groups'"),
     ("model", "x", "'model'"), ("omitted", [], "'omitted'"), ("notes", 3, "'notes'"),
     ("options", {"trained_on": [1, 2]}, "list of names, got .1, 2."), ("options", {"trained_on": "x"}, "got 'x'"),
     ("options", {"limit": "3"}, "limit is str")],
)  # fmt: skip
def test_damaged_reports(tmp_path: Path, field: str, value: object, message: str) -> None:
    (tmp_path / "r.json").write_text(json.dumps(make() | {field: value}))
    with pytest.raises(DataError, match=f"r.json is not a report .*{message}"):
        report.load(tmp_path / "r.json")


def test_missing_and_huge_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="gone.json does not exist"):
        report.load(tmp_path / "gone.json")
    monkeypatch.setattr(report, "MAX_REPORT_BYTES", 10)
    with pytest.raises(DataError, match="more than 10 bytes"):
        report.load(saved(tmp_path / "r.json"))


def test_samples_file(tmp_path: Path) -> None:
    report.save_samples(tmp_path / "s.csv", ["a", 'b, "c"', "d"], {"mean_2d": np.arange(3.0), **scores().per_sample})
    assert (tmp_path / "s.csv").read_text() == 'sample,pa_mpjpe,mean_2d\na,1,0\n"b, ""c""",,1\nd,3,2\n'


def test_weights_checksum() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2).to(torch.bfloat16)
    first = report.weights_checksum(model)
    assert first == report.weights_checksum(model) and len(first) == 64
    model.bias.data[0] += 1
    assert report.weights_checksum(model) != first


def test_training_set(tmp_path: Path) -> None:
    def model(**config: object) -> SimpleNamespace:
        return SimpleNamespace(config=SimpleNamespace(**config))

    assert report.training_set(model(trained_on="freihand"), None) == ["freihand"]
    assert report.training_set(model(trained_on=["a", "b"]), str(tmp_path)) == ["a", "b"]
    assert report.training_set(model(), None) is None and report.training_set(model(), str(tmp_path)) is None
    cards = {"datasets: [x, y]": ["x", "y"], "datasets: x": ["x"], "license: mit": None, ":": None}
    for card, expected in cards.items():
        (tmp_path / "README.md").write_text(f"---\n{card}\n---\ntext\n")
        assert report.training_set(model(), str(tmp_path)) == expected, card


def test_tables() -> None:
    rows = {"a": {"f5": 0.5, "pa_mpjpe": 7.123}, "b": {"pa_mpjpe": 6.0}}
    lines = report.table(rows).splitlines()
    assert lines[0].split() == ["PA-MPJPE,", "mm", "F@5"] and lines[2].endswith("7.12  0.500")
    assert lines[3].endswith("6.00      -")
    assert formatted("found", 3) == "3" and formatted("new", 0.12345) == "0.1235" and heading("new") == "new"
    wide = {"a": dict.fromkeys(list(MEASURES)[:9], 1.0)}
    assert len(report.table(wide).splitlines()) == 11  # turned on its side


# ---------------------------------------------------------------------------------------------------------------------
# Published figures


def test_published_rows_are_those_of_the_papers() -> None:
    assert {row.benchmark for row in PUBLISHED} <= BENCHMARKS.keys()
    assert all(row.metrics and set(row.metrics) <= MEASURES.keys() and row.source for row in PUBLISHED)
    assert len({(row.benchmark, row.name) for row in PUBLISHED}) == len(PUBLISHED)
    assert all("[published: " in row.name for row in PUBLISHED)
    by_table = {n: [r for r in PUBLISHED if r.source == f"HandMIM table {n}"] for n in (1, 2, 3, 4)}
    assert {n: len(rows) for n, rows in by_table.items()} == {1: 13, 2: 9, 3: 8, 4: 8}
    large = next(row for row in by_table[1] if row.method == "HandMIM-Large")
    assert large.metrics == {"pa_mpvpe": 6.29, "pa_mpjpe": 6.19, "f5": 0.744, "f15": 0.986}
    cross = {(row.benchmark, row.trained_on): row.metrics for row in by_table[4] if row.method == "HandMIM ViT-S"}
    assert cross[("freihand", "ho3d-v2")] == {"pa_mpjpe": 14.1, "st_mpjpe": 29.74}
    assert cross[("ho3d-v2", "freihand")] == {"pa_mpjpe": 9.9, "st_mpjpe": 30.4}
    for row in PUBLISHED:  # a slip of the keyboard would stand out
        for name, value in row.metrics.items():
            low, high = (5, 35) if MEASURES[name].unit == "mm" else (0.48, 1)
            assert low <= value <= high, (row.name, name)
    assert published_rows(["rhd"]) == {"rhd": []}


# ---------------------------------------------------------------------------------------------------------------------
# Comparisons and plots


def test_compare(tmp_path: Path) -> None:
    options = {"tta": {"views": [1]}, "trained_on": ["ho3d-v2"], "limit": None}
    paths = [
        saved(tmp_path / "a.json", baselines={"mean hand": scores(20)}),
        saved(tmp_path / "b.json", error=6.5),
        saved(tmp_path / "c.json", name="other", error=9, options=options),
    ]
    text = compare(paths, published=True)
    lines = text.splitlines()
    own = ("model ", "model (2)", "other [TTA; trained on ho3d-v2]", "mean hand")
    for start in (*own, "HandMIM-Small [published: HandMIM"):
        assert any(line.startswith(start) for line in lines), start
    assert lines[0] == "freihand (evaluation, 3 samples)" and "PA-MPVPE, mm" in lines[1]
    assert "note: the reports" not in text
    assert "published" not in compare(paths)
    assert "(no published rows" in compare([saved(tmp_path / "d.json", benchmark="rhd")], published=True)


def test_compare_has_a_baseline_of_each_set_of_samples(tmp_path: Path) -> None:
    """The first report's stood under a heading that named both."""
    baselines = {"mean hand": scores(20)}
    first = saved(tmp_path / "a.json", baselines=baselines)
    same = saved(tmp_path / "b.json", name="other", baselines=baselines)
    fewer = saved(tmp_path / "c.json", samples=2, baselines={"mean hand": scores(30)})
    relabelled = saved(tmp_path / "d.json", data={"checksum": "x"}, baselines={"mean hand": scores(40)})
    lines = compare([first, same, fewer]).splitlines()
    assert lines[0] == "freihand (evaluation, 2 samples; evaluation, 3 samples)"
    means = [line for line in lines if line.startswith("mean hand")]
    assert [line.split("  ")[0] for line in means] == [f"mean hand (evaluation, {n} samples)" for n in (3, 2)]
    assert "20.00" in means[0] and "30.00" in means[1]
    lines = compare([first, relabelled]).splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("mean hand")] == ["mean hand", "mean hand (2)"]


def test_compare_names_data_sets_of_ones_own(tmp_path: Path) -> None:
    paths = []
    for name in ("kitchen", "garage"):
        data = {"root_name": name, "checksum": name}
        paths.append(saved(tmp_path / name, benchmark="folder", data=data, baselines={"mean hand": scores(20)}))
    text = compare(paths)
    assert "model (kitchen)" in text and "mean hand (garage, evaluation, 3 samples)" in text
    assert "about different samples" in text


def test_a_picture_never_replaces_a_report(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = saved(tmp_path / "report.png")  # whatever its name
    before = path.read_bytes()
    for picture, message in (
        (tmp_path / "new" / ".." / "report.png", "is one of the reports and would be lost; give another file"),
        (tmp_path / "curves.pdf", "must end in .png, got"),
    ):
        assert main(["compare", str(path), "--plot", str(picture)]) == 1
        assert message in capsys.readouterr().err
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_tables_come_without_curves_too(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """All that was printed was that there is nothing to plot."""
    path = saved(tmp_path / "r.json", scores=Scores({"f5": 0.25}))
    assert main(["compare", str(path), "--plot", str(tmp_path / "c.png")]) == 1
    printed = capsys.readouterr()
    assert "0.250" in printed.out and "none of the reports has a curve to plot" in printed.err


def test_compare_says_what_is_not_comparable(tmp_path: Path) -> None:
    first = saved(tmp_path / "a.json")
    fewer = saved(tmp_path / "b.json", samples=2)
    assert "about different samples" in compare([first, fewer])
    other = saved(tmp_path / "c.json", data={"root_name": "data", "checksum": "xyz"})
    assert "labels of the reports differ" in compare([first, other])
    two = compare([first, saved(tmp_path / "d.json", benchmark="ho3d-v2")])
    assert "freihand (" in two and "ho3d-v2 (" in two
    # A submission's check sum is about the official files, a model's about samples: only what both have is compared.
    official = saved(tmp_path / "e.json", data={"root_name": "data", "labels_checksum": "1"})
    both = saved(tmp_path / "f.json", data={"root_name": "data", "checksum": "abc", "labels_checksum": "1"})
    assert "differ" not in compare([official, both]) and "differ" not in compare([first, both])


def test_plots(tmp_path: Path) -> None:
    long = make(name="a very long name of a checkpoint that nobody can fit into a legend of this size")
    reports = [make(), long, make(benchmark="ho3d-v2")]
    assert plot(reports, tmp_path / "new" / "p.png") == ["pa_auc_joints", "pa_auc_joints"]
    picture = np.asarray(Image.open(tmp_path / "new" / "p.png").convert("RGB"))
    assert picture.shape[1] > 900 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    with pytest.raises(ValueError, match="none of the reports has a curve"):
        plot([make(scores=Scores({"f5": 1.0}))], tmp_path / "q.png")
    assert not (tmp_path / "q.png").exists()


def test_plots_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PlotError, match=r"pip install handmim\[eval\]"):
        plot([make()], tmp_path / "p.png")
