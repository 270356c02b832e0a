"""SpaceEvo's published tables: their golden figures, Monte Carlo and exact, and what is no such table."""

import json
import zipfile
from itertools import product

import numpy as np
import pytest

from milliseek.errors import InvalidInput
from milliseek.nas.design.exact_score import ExactScorer
from milliseek.nas.design.fastest import check_constraints, fastest_ms
from milliseek.nas.design.published_tables import PublishedTables
from milliseek.nas.design.score import MonteCarloScorer
from milliseek.nas.design.space_search import best_windows, evolve_space
from milliseek.spaces.blocks import ONNXW_BLOCKS
from milliseek.spaces.hyperspace import MOBILEW, ONNXW, Hyperspace, Stage
from milliseek.spaces.space import Space, random_space

MINI = Hyperspace(
    name="mini",
    resolutions=(32, 64),
    blocks=ONNXW_BLOCKS[:2],
    stem_widths=(16,),
    stem_stride=2,
    stages=(
        Stage((16,), (1,), 1),
        Stage((16, 24, 32), (1, 2), 2, window=2),
        Stage((32, 48), (1, 2), 2, window=2),
    ),
    head_width=32,
)
FIXED = {"mini": {"32": 0.5, "64": 1.5}}


@pytest.fixture(scope="module")
def onnxw(data_folder):
    return PublishedTables(ONNXW, data_folder / "spaceevo" / "block_lut.zip")


@pytest.fixture(scope="module")
def mobilew(data_folder):
    return PublishedTables(MOBILEW, data_folder / "spaceevo" / "block_lut.zip")


@pytest.fixture(scope="module")
def scorers(onnxw):
    """(exact, Monte Carlo with 50 000 samples) at 15 ms."""
    return ExactScorer(onnxw, [15.0]), MonteCarloScorer(onnxw, [15.0], samples=50_000)


@pytest.mark.data
def test_all_published_tables_are_there(onnxw, mobilew):
    assert (onnxw.digest["cells"], mobilew.digest["cells"]) == (3 * 132, 3 * 210)
    assert onnxw.resolutions == mobilew.resolutions == (160, 192, 224)


@pytest.mark.data
@pytest.mark.parametrize(
    ("block", "low", "high"),
    [(0, 0.300, 0.300), (1, 0.344, 0.344), (2, 0.331, 0.341), (3, 0.334, 0.334), (4, 0.334, 0.334), (5, 0.349, 0.349)],
)
def test_uniform_spaces_score_as_published(scorers, block, low, high):
    exact, monte_carlo = scorers
    space = Space(ONNXW, (block,) * 6, (1,) * 6)
    assert low - 0.01 <= monte_carlo.score(space).score <= high + 0.01
    assert low - 0.01 <= exact.score(space).score <= high + 0.01


@pytest.mark.data
@pytest.mark.parametrize(
    ("encoding", "constraint_ms", "score"),
    [
        ("onnxw-121122-133333", 15, 0.427),
        ("onnxw-151122-023231", 15, 0.427),
        ("onnxw-151122-023231", 10, 0.383),
        ("onnxw-121122-022232", 15, 0.430),
        ("onnxw-121122-022232", 10, 0.370),
    ],
)
def test_published_spaces_score_as_published(onnxw, encoding, constraint_ms, score):
    space = Space.decode(encoding)
    sampled = MonteCarloScorer(onnxw, [constraint_ms], samples=100_000).score(space)
    exact = ExactScorer(onnxw, [constraint_ms]).score(space)
    assert sampled.score == pytest.approx(score, abs=0.01)
    assert exact.score == pytest.approx(score, abs=0.003)
    assert exact.p[0] == pytest.approx(sampled.p[0], abs=4 * np.sqrt(sampled.p[0] / 100_000))


@pytest.mark.data
def test_an_absolute_number_of_best_samples_depends_on_how_many_are_drawn(onnxw):
    space = Space.decode("onnxw-151122-023231")
    scores = [MonteCarloScorer(onnxw, [10.0], samples=n).score(space).score for n in (5_000, 100_000, 500_000)]
    assert scores == sorted(scores)
    assert scores == pytest.approx([0.372, 0.384, 0.390], abs=0.01)


@pytest.mark.data
@pytest.mark.parametrize(("block", "score"), [(1, 0.669), (2, 0.660), (4, 0.621), (3, 0.614), (0, 0.581)])
def test_uniform_mobile_spaces_score_as_published(mobilew, block, score):
    space = Space(MOBILEW, (block,) * 6, (0,) * 6)
    assert MonteCarloScorer(mobilew, [15.0, 20.0], samples=5_000).score(space).score == pytest.approx(score, abs=0.02)
    assert ExactScorer(mobilew, [15.0, 20.0]).score(space).score == pytest.approx(score, abs=0.01)


@pytest.mark.data
def test_the_best_windows_are_better_than_the_first_and_the_last(mobilew):
    scorer = ExactScorer(mobilew, [15.0, 20.0])
    first, last = (Space(MOBILEW, (1,) * 6, windows) for windows in ((0,) * 6, (1, 5, 5, 6, 4, 3)))
    best = scorer.score(best_windows(scorer, (1,) * 6)).score
    assert best > max(scorer.score(first).score, scorer.score(last).score)


@pytest.mark.data
def test_the_published_mobile_space_scores_as_published(mobilew):
    space = Space.decode("mobilew-122222-155400")
    assert MonteCarloScorer(mobilew, [15.0, 20.0], samples=5_000).score(space).score == pytest.approx(0.74, abs=0.02)
    assert ExactScorer(mobilew, [15.0, 20.0]).score(space).score == pytest.approx(0.74, abs=0.005)


@pytest.mark.data
@pytest.mark.slow
def test_evolution_finds_the_blocks_of_the_published_space(onnxw, tmp_path):
    ranking = evolve_space(f"sqlite:///{tmp_path / 's.db'}", "s", ExactScorer(onnxw, [15.0]), evaluations=2000)
    assert {found.space.blocks for found in ranking[:10]} == {(1, 2, 1, 1, 2, 2)}
    published = ExactScorer(onnxw, [15.0]).score(Space.decode("onnxw-121122-133333"))
    assert ranking[0].score > published.score


@pytest.fixture
def folder(tmp_path):
    """Made-up tables of `MINI` with eight rows a cell, beside the milliseconds of the fixed stages."""
    rng = np.random.default_rng(0)
    for s, block in product((1, 2), range(2)):
        for window in range(len(MINI.stages[s].windows)):
            rows = [
                f"3#24#None,1x16x{hw}x{hw},{rng.uniform(0.1, 0.6):.4f},1.0,0.1,{rng.uniform(0.5, 3):.4f}"
                for hw in (16 // s, 32 // s)
                for _ in range(8)
            ]
            (tmp_path / f"stage{s}_{block}_{window}.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "fixed_stage_ms.json").write_text(json.dumps(FIXED))
    return tmp_path


def counted(tables, space, constraint_ms):
    """(p, NSR of the best) of every combination of rows."""
    latency_ms, nsr = [], []
    for resolution in tables.resolutions:
        cells = [
            tables.rows((s, block, window, resolution))
            for s, block, window in zip((1, 2), space.blocks, space.windows, strict=True)
        ]
        latency_ms += [tables.before_ms(resolution)[0] + a + b for a in cells[0].ms[0] for b in cells[1].ms[0]]
        nsr += [a + b for a in cells[0].nsr for b in cells[1].nsr]
    feasible = np.array(latency_ms) <= constraint_ms
    return feasible.mean(), np.array(nsr)[feasible].min(initial=np.inf)


@pytest.mark.parametrize("constraint_ms", [2.8, 4.0, 6.0])
def test_both_scores_agree_with_counting_every_combination(folder, constraint_ms):
    tables, rng = PublishedTables(MINI, folder), np.random.default_rng(1)
    for space in (random_space(MINI, rng) for _ in range(5)):
        p, best = counted(tables, space, constraint_ms)
        exact, sampled = (
            scorer.score(space)
            for scorer in (ExactScorer(tables, [constraint_ms]), MonteCarloScorer(tables, [constraint_ms]))
        )
        assert exact.p[0] == pytest.approx(p, abs=0.005)
        assert sampled.p[0] == pytest.approx(p, abs=0.005)
        # Single subnets at the constraint may be on either side of it.
        looser, tighter = (counted(tables, space, constraint_ms * factor)[1] for factor in (1.03, 0.97))
        assert looser - 1e-3 <= exact.quality[0] <= tighter + 1e-3
        assert sampled.quality[0] == pytest.approx(best)


def test_a_zip_file_is_as_good_as_a_folder(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("zip") / "tables.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.glob("*.csv"):
            archive.write(file, f"mini/{file.name}")
    (path.parent / "fixed_stage_ms.json").write_text(json.dumps(FIXED))
    assert PublishedTables(MINI, path).digest == PublishedTables(MINI, folder).digest


def test_fixed_stages_count_as_nothing_where_nobody_knows_them(folder):
    (folder / "fixed_stage_ms.json").unlink()
    tables = PublishedTables(MINI, folder)
    assert tables.fixed_ms == {}
    given = PublishedTables(MINI, folder, {32: 1.0, 64: 1.0})
    assert fastest_ms(given) == pytest.approx(fastest_ms(tables) + 1)


def test_a_constraint_that_no_network_of_the_tables_meets(folder):
    with pytest.raises(InvalidInput, match=r"No network of 'mini' takes 1 ms or less: the fastest one needs \d"):
        check_constraints(PublishedTables(MINI, folder), [1.0, 9.0])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("stage1_0_0.csv", "", r"stage1_0_0.csv is empty"),
        ("stage1_0_0.csv", "3#24#4,1x16x16x16,0.2,1,1\n", "line 1 of stage1_0_0.csv is no row"),
        ("stage1_0_0.csv", "3#24#4,1x16x16x16,0.2,1,1,-3\n", "positive"),
        ("stage1_0_0.csv", "3#24#4,16,0.2,1,1,3\n", "no row of a block table"),
        ("stage1_0_0.csv", "3#24#4,1x16x16x16,0.2,1,1,3\n", "no row at 64 pixels"),
        ("fixed_stage_ms.json", '{"mini": {"32": 1}}', "no milliseconds at 64 pixels"),
        ("fixed_stage_ms.json", "[]", "does not say milliseconds"),
    ],
)
def test_what_is_no_table(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(InvalidInput, match=message):
        PublishedTables(MINI, folder)


def test_what_is_no_folder_of_tables(folder, tmp_path_factory):
    (folder / "stage2_1_0.csv").unlink()
    with pytest.raises(InvalidInput, match=r"no table stage2_1_0.csv of 'mini'"):
        PublishedTables(MINI, folder)
    with pytest.raises(InvalidInput, match="is no folder or zip file"):
        PublishedTables(MINI, folder / "nothing.zip")
    (folder / "text.zip").write_text("text")
    with pytest.raises(InvalidInput, match="is no folder or zip file"):
        PublishedTables(MINI, folder / "text.zip")
