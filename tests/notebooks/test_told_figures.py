"""What the pages' own words say of the records is what these say: a sentence ages like a table."""

from pathlib import Path
from statistics import median

import nbformat
import pytest

import cpnb
from cpnb.study import tables
from cpnb.study.comparison import compared, fastest_within
from cpnb.study.selection import chosen, grouped, newest, newest_code

ROOT = Path(__file__).resolve().parents[2]
SATURATED = "f563686427abb1a582b95c4ca077a9af8452daf6"
PLAIN = "eager NCHW", "channels_last"  # PyTorch without compilation
TENTHS = {4: "four tenths", 5: "half", 6: "six", 7: "seven tenths"}


@pytest.fixture(scope="module")
def rows():
    return cpnb.recorded()


def words(page: str) -> str:
    (path,) = (ROOT / "notebooks").glob(f"{page}_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def tuned(rows, **wanted) -> dict:
    """The drop of the newest run of each seed, points."""
    runs = newest(chosen(rows, claim="compress-finetune", epochs=10, **wanted), "seed", "teacher")
    return {(run["seed"], bool(run.get("teacher"))): 100 * run["drop"] for run in runs}


def shares(rows, net: str) -> dict:
    """By factor the drop by the plan over that at one rate, medians of the samples."""
    runs = newest(chosen(rows, claim="compress", net=net), "factor", "seed", "allocation")
    found = {}
    for group in grouped(runs, "factor"):
        by = {how: median(run["drop"] for run in group if run["allocation"] == how)
              for how in ("plan", "one rate")}  # fmt: skip
        found[group[0]["factor"]] = by["plan"] / by["one rate"]
    return found


def beside(rows, net: str, simd: str = "AVX512") -> dict:
    """The newest recorded alternatives of a net, by name and number of multiplies."""
    runs = newest_code(chosen(rows, claim="alternatives", net=net, simd=simd))
    return {(run["name"], run["factor"]): run for run in runs}


def shown(table, **wanted) -> dict:
    """The one line of a table that has these values in its columns."""
    frame = table.data
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    (line,) = frame.to_dict("records")
    return line


def test_04_stopping_early(rows):
    starts, column = tables.plain_starts(rows), "both fine-tuned"
    early = [
        shown(starts, start="SVD", steps=steps, **{"learning rate": "0.01"})[column].split("%")[0]
        for steps in ("5", "10")
    ]
    assert f"plain NLS keeps {early[0]} and {early[1]}% in these short runs" in words("04")


def test_05_shares_of_the_ratio(rows):
    column = "speed-up over dense in PyTorch"
    found = {
        line["input"]: [float(line[c].rstrip("×")) for c in (column, "fewer multiplies")]
        for line in tables.speedups(rows).data.to_dict("records")
    }
    share = {name: f"{speedup / ratio:.0%}" for name, (speedup, ratio) in found.items()}
    batches = sorted(share[name].rstrip("%") for name in ("64 patches", "256 patches"))
    image = "image, 240×320"
    told = (
        f"keep {batches[0]} to {batches[1]}% of the ratio of multiplies on batches of 64 and 256 "
        f"patches, {share['1 patch']} on a single patch and {share[image]} on the 240×320 image"
    )
    assert told in words("05")
    assert f"({found[image][0]:.1f}× over dense in PyTorch at 240×320)" in words("05")
    ours = tables.inference(rows).data.set_index("net or layer, and input")["share"]
    assert 0.97 < float(ours["CharNet, 64 patches"].rstrip("%")) / 100 < 1.05, "all of it"
    assert f"and {ours['CharNet, 240×320']} on the image" in words("05")
    assert f"{ours['CharNet, 256 patches']} at 256 patches and about half" in words("05")
    assert 40 < float(ours["CharNet, 1 patch"].rstrip("%")) < 60, "about half"


def test_09_what_the_teacher_did(rows):
    five = tuned(rows, net="resnet20", factor=5.0)
    assert f"{five[0, True]:.2f} points against {five[0, False]:.2f}" in words("09")
    dense = tuned(rows, net="resnet20", factor=1.0)
    assert ("gains more than half a point itself" in words("09")) == (dense[0, True] < -0.5)


def test_09_what_tuned_nets_take_back(rows):
    assert "three fifths of the drop and more are taken back" in words("09")
    assert "at 2.7 times fewer the net ends where the dense one was" in words("09")
    runs = chosen(rows, claim="compress-finetune", net="resnet20", epochs=10, teacher=True)
    for run in newest(runs, "seed", "factor"):
        before, left = run["accuracy_dense"] - run["accuracy_compressed"], run["drop"]
        if run["factor"] in (3.7, 5.0):
            assert left < 0.4 * before
        elif run["factor"] == 2.7:
            assert abs(left) < 0.0033  # the standard error of 10,000 images


def test_09_the_smaller_dense_net(rows):
    found = beside(rows, "resnet56")
    small, cp = found["ResNet-20", 3.3], found["CP by the plan", 3.3]
    faster = f"({small['speedup']:.1f}× against {cp['speedup']:.1f}× over the dense ResNet-56)"
    assert faster in words("09")
    more = 100 * (cp["accuracy"] - small["accuracy"])
    assert f"is the more accurate one, by {more:.1f} points" in words("09")


def test_09_int8_and_cp(rows):
    lost = []
    for net in ("resnet20", "resnet56"):
        found = beside(rows, net)
        for (name, factor), run in found.items():
            if name.startswith("CP, then int8"):
                lost.append(100 * (found["CP by the plan", factor]["accuracy"] - run["accuracy"]))
                int8 = max(r["speedup"] for (n, f), r in found.items() if n.startswith("int8"))
                assert run["speedup"] < int8, "int8 on top of CP is nowhere faster"
    assert f"loses {min(lost):.1f} to {max(lost):.1f} points more than CP does" in words("09")


def test_09_without_instructions_for_int8(rows):
    found, page = beside(rows, "resnet20", "AVX2"), words("09")
    speeds = {key: run["speedup"] for key, run in found.items()}
    lost = {key: 100 * (found["dense", 3.7]["accuracy"] - run["accuracy"])
            for key, run in found.items()}  # fmt: skip
    less, most = (speeds["int8 (OpenVINO)", factor] for factor in (1.9, 3.7))
    assert f"is {less:.1f}× and {most:.1f}× as fast as dense (two runs)" in page
    assert "and loses one image of 10,000" in page
    assert all(round(100 * lost["int8 (OpenVINO)", factor]) == 1 for factor in (1.9, 3.7))
    mild, strong = ("CP by the plan", 1.9), ("CP by the plan", 3.7)
    assert f"is {speeds[mild]:.1f}× as fast, for {lost[mild]:.1f} points" in page
    assert f"that still works, {speeds[strong]:.1f}×, for {lost[strong]:.1f} points" in page
    told = f"(ResNet-20, one run: {speeds[strong]:.1f}× against {most:.1f}×, over dense in the same"
    assert f"{told} run), and loses {lost[strong]:.1f} points" in page
    assert all(speeds[strong] > speed for key, speed in speeds.items() if lost[key] < 5
               and key != strong), "the fastest net that still works"  # fmt: skip
    assert all(speeds["bfloat16", factor] <= 1 for factor in (1.9, 3.7)), "it gains nothing"
    more = [lost[name, f] - lost["CP by the plan", f] for name, f in found if "then" in name]
    assert "with it int8 loses one to one and a half points more" in page
    assert min(more) > 1 and max(more) < 1.6
    by_cp = {f: speeds["CP by the plan", f] for f in (1.9, 3.7)}
    assert all(speeds[name, f] < by_cp[f] for name, f in found if "then" in name)


def test_09_without_halved_weights(rows):
    """The runs before: int8 with the whole range of weights, where 8-bit sums are cut off."""
    runs = chosen(rows, claim="alternatives", net="resnet20", simd="AVX2", commit=SATURATED)
    by = {(run["name"], run["factor"]): run["accuracy"] for run in runs}
    more = [100 * (by["CP by the plan", f] - by[name, f]) for name, f in by if "then" in name]
    told = f"lost {min(more):.0f} to {max(more):.0f} points more than CP does (recorded before"
    assert told in words("09")


def test_09_forms(rows):
    groups = grouped(newest(chosen(rows, claim="forms"), "net", "layer", "rate"), "net", "rate")
    rivals, joined = [], []
    for group in groups:
        for form in set(group[0]["errors"]) - {"CP"}:
            squares = [(run["errors"][form] / run["errors"]["CP"]) ** 2 for run in group]
            if form == "CP, three-way":
                joined += squares
            else:
                rivals.append(median(squares))
    page = words("09")
    assert f"{min(rivals):.1f} to {max(rivals):.1f} times CP's squared error" in page
    lowest, highest = round(100 * (1 - min(joined))), round(100 * (max(joined) - 1))
    assert f"from {lowest}% less to {highest}% more" in page


def test_05_the_factored_net_in_pytorch(rows):
    runs = chosen(rows, claim="inference", case="CharNet, 64 patches", device="cpu", threads=2)
    speeds = []
    for run in newest_code([run for run in runs if run.get("simd") == "AVX2"]):
        by = {
            net: min(run["latencies"][f"{net}, {how}"]["median_ms"] for how in PLAIN)
            for net in ("dense", "factored")
        }
        speeds.append(by["dense"] / by["factored"])
    told = f"between {min(speeds):.1f}× and {max(speeds):.1f}× in the five runs with AVX2"
    assert told in words("05") and len(speeds) == 5


def test_09_the_plan_against_one_rate(rows):
    found = shares(rows, "resnet20")
    tenths = {factor: round(10 * share) for factor, share in found.items()}
    most, least = max(tenths.values()), min(tenths[f] for f in (2.7, 3.7, 5.0))
    told = (
        f"The plan loses {TENTHS[tenths[1.9]]} of what one rate for all layers does at 1.9 times "
        f"fewer multiplies, and {TENTHS[least]} to {TENTHS[most]} at 2.7 to 5 times fewer"
    )
    assert told in words("09")
    assert all(share <= 0.5 for share in shares(rows, "resnet56").values()), "half or less"
    charnet = shares(rows, "charnet")
    assert "a quarter at 2 and 3 times fewer, six tenths at 4 times" in words("09")
    assert round(4 * charnet[2.0]) == round(4 * charnet[3.0]) == 1
    assert round(10 * charnet[4.0]) == 6


def test_09_images_of_squeezenet(rows):
    runs = newest(chosen(rows, claim="compress", net="squeezenet"), "factor", "allocation")
    more = {}
    for key in ("drop", "top1_drop"):
        lost = {(r["factor"], r["allocation"]): round(r[key] * r["test_size"]) for r in runs}
        more[key] = [lost[f, "plan"] - lost[f, "one rate"] for f in (2.0, 3.0)]
    assert more == {"drop": [1, -5], "top1_drop": [-4, 11]}
    told = "by top-5, one image more than one rate at 2 times fewer multiplies and five fewer at 3"
    assert told in words("09") and "by top-1 four fewer and eleven more" in words("09")


def test_10_cp_and_the_rivals(rows):
    points = compared(rows)
    by = {(p["method"], *map(str, p["ranks"])): p for p in points}
    cp = fastest_within([p for p in points if p["method"] == "nls"], 1.0)
    papers = ("jaderberg-2", "jaderberg-1", "biclustering")
    best = fastest_within([p for p in points if p["method"] in papers], 1.0)
    page, wide = words("10"), by["nls", "64", "64"]
    ratio = [p["speedup"] / best["speedup"] for p in (cp, wide)]
    assert cp["ranks"] == [32, 32] and best["method"] == "jaderberg-2"
    assert f"is {ratio[0]:.1f} times as fast as Jaderberg's" in page
    assert f"on the test split it loses {cp['drop_after']:.1f} points" in page
    assert (
        f"At ranks 64 and 64 it loses {wide['drop_after']:.1f} there, and is {ratio[1]:.1f} times"
        in page
    )
    assert f"on validation the same net loses {best['drop_validation']:.1f} points" in page


def test_10_denton_and_jaderberg(rows):
    points, page = compared(rows), words("10")
    fast = {}
    for methods, goal in ((("jaderberg-2", "jaderberg-1"), 4.5), (("biclustering",), 2.0)):
        nets = [p for p in points if p["method"] in methods and p["speedup"] >= goal]
        fast[goal] = min(nets, key=lambda p: p["drop_validation"])
    jaderberg, denton = fast[4.5], fast[2.0]
    assert f"Jaderberg's loses {jaderberg['drop_after']:.1f} points" in page
    told = f"Denton's loses {denton['drop_after']:.1f} in the mean, but {denton['worst']:.1f} with"
    assert told in page
    (larger,) = (p for p in points if p["ranks"] == [73, 114])
    assert (
        f"(ranks 73 and 114, {larger['speedup']:.1f}× over dense in PyTorch) loses "
        f"{larger['drop_after']:.1f} points on the test split and "
        f"{larger['drop_validation']:.1f} on validation" in page
    )
