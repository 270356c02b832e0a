"""A predictor adds its kernels up, says what it does not know, and is data that cannot do anything else."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milliseek.errors import InvalidInput
from milliseek.kernels.costs import weight_bytes
from milliseek.predictors.models.correction import Correction
from milliseek.predictors.models.kernel_model import ANY_PATH, MIN_FOREST_SAMPLES, fit_kernel_model, fit_physics
from milliseek.predictors.models.physics import TERMS, physics_terms
from milliseek.predictors.models.predictor import Predictor, from_bytes, to_bytes
from milliseek.predictors.profiles.fitting import network_sum

CORRECTION = Correction(1.1, 0.002, 0.05, 0.01, 2.0, 0.03, (0.01, -0.02, 0.03, 0.0))


@pytest.fixture(scope="module")
def kernels(make):
    """Pointwise convolutions enough for a forest, dense ones too few for it."""
    widths = [(cin, cout) for cin in (8, 24, 40) for cout in (16, 32, 72)]
    pointwise = [make.qconv(cin, cout, hw) for cin, cout in widths for hw in (7, 14)]
    dense = [make.qconv(cin, 16, hw, kernel=3) for cin in (8, 16, 32) for hw in (7, 8, 14)]
    assert len(pointwise) >= MIN_FOREST_SAMPLES > len(dense)
    return pointwise + dense


def smooth_latency_of(kernel):
    """A made-up device: bytes and multiply-accumulates."""
    costs = {"constant": 0.001, "macs": 1e-4, "padded_macs": 5e-5, "input_bytes": 1e-4, "output_bytes": 2e-4}
    return float(physics_terms(kernel) @ [costs.get(term, 0) for term in TERMS])


def latency_of(kernel):
    """The same, slower where vectors of sixteen outputs are not filled."""
    return smooth_latency_of(kernel) * (1.4 if kernel.outputs[0].shape[-1] % 16 else 1)


@pytest.fixture(scope="module")
def predictor(kernels):
    model = fit_kernel_model(kernels, np.array([latency_of(kernel) for kernel in kernels]))
    return Predictor("here/onnxruntime/int8", "1.31.0", model, CORRECTION)


def test_the_physics_alone_learns_a_made_up_device(kernels):
    terms = np.stack([physics_terms(kernel) for kernel in kernels])
    latency_ms = np.array([smooth_latency_of(kernel) for kernel in kernels])
    coefficients = fit_physics(terms, latency_ms)
    assert (coefficients >= 0).all()
    assert terms @ coefficients == pytest.approx(latency_ms, rel=1e-6)


def test_kernels_that_were_measured_are_known(predictor, kernels):
    found = predictor.kernel_model.predict(kernels)
    assert found.covered.all()
    assert found.latency_ms == pytest.approx(np.array([latency_of(kernel) for kernel in kernels]), rel=0.02)


def test_the_order_of_kernels_does_not_matter(predictor, kernels):
    forwards = predictor.kernel_model.predict(kernels).latency_ms
    backwards = predictor.kernel_model.predict(kernels[::-1]).latency_ms
    assert forwards == pytest.approx(backwards[::-1], rel=1e-6)


def test_the_forest_learns_what_the_physics_cannot(make):
    kernels = [make.qconv(cin, cout, 14) for cin in range(8, 72, 8) for cout in range(8, 72, 8)]
    latency_ms = np.array([latency_of(k) for k in kernels])
    found = fit_kernel_model(kernels, latency_ms).predict(kernels)
    assert found.latency_ms == pytest.approx(latency_ms, rel=0.05)


def test_a_path_without_data_follows_its_family(make):
    """Dense convolutions measured alone tell about pointwise ones what bytes and multiplications tell."""
    dense = [make.qconv(cin, cout, hw, kernel=3) for cin in (8, 32) for cout in (8, 40) for hw in (7, 14, 28)]
    sums = [make.add(channels, 14) for channels in (8, 16, 64)]
    latency_ms = np.array([*map(smooth_latency_of, dense), 5.0, 10.0, 40.0])
    found = fit_kernel_model([*dense, *sums], latency_ms).predict([make.qconv(24, 40, 14)])
    assert not found.covered.any()
    assert found.latency_ms[0] == pytest.approx(smooth_latency_of(make.qconv(24, 40, 14)), rel=0.5)


def test_the_ensemble_is_surer_of_what_it_saw(make):
    kernels = [make.qconv(cin, cout, 14) for cin in range(8, 72, 8) for cout in range(8, 72, 8)]
    model = fit_kernel_model(kernels, np.array([latency_of(k) for k in kernels]))
    strangers = [make.qconv(cin, cout, 14) for cin in (11, 37) for cout in (13, 59)]
    assert model.predict(kernels).spread.mean() < 0.5 * model.predict(strangers).spread.mean()


def test_kernels_add_up_to_the_network(predictor, kernels, make):
    network = [*kernels, *kernels[:4], make.reshape(), make.gemm(64, 10)]
    prediction = predictor.predict(network, "here/onnxruntime/int8@7", ["a note"])
    assert prediction.latency_ms == pytest.approx(predictor.kernels_ms(network).sum())
    assert prediction.latency_ms == pytest.approx(sum(k.latency_ms * k.count for k in prediction.kernels))
    assert sum(kernel.count for kernel in prediction.kernels) == len(network)
    assert sorted({kernel.count for kernel in prediction.kernels}) == [1, 2]
    shares = [k.latency_ms * k.count for k in prediction.kernels]
    assert shares == sorted(shares, reverse=True)
    assert (prediction.target, prediction.predictor) == ("here/onnxruntime/int8", "here/onnxruntime/int8@7")
    assert prediction.notes == ("a note",)


def test_the_interval_is_wider_where_the_ensemble_disagrees(predictor, kernels, make):
    known = predictor.predict(kernels, "p@1")
    assert known.uncovered == 0
    below, above = CORRECTION.interval_at(network_sum(predictor.kernel_model, kernels).spread)
    assert np.array(known.interval_ms) / known.latency_ms == pytest.approx([1 - below, 1 + above])
    strangers = [make.qconv(cin, cout, 14) for cin in (11, 37) for cout in (13, 59)]
    unsure = predictor.predict(strangers, "p@1")
    assert relative_width(unsure) > 1.2 * relative_width(known)


def relative_width(prediction):
    low, high = prediction.interval_ms
    return (high - low) / prediction.latency_ms


def test_kernels_without_data_are_guessed_and_said_to_be(predictor, kernels, make):
    stranger = make.gemm(256, 100)
    prediction = predictor.predict([*kernels, stranger], "p@1")
    (guess,) = [kernel for kernel in prediction.kernels if not kernel.covered]
    assert guess.kind == "Gemm"
    assert guess.latency_ms > CORRECTION.b
    assert prediction.uncovered == pytest.approx(guess.latency_ms / prediction.latency_ms)
    assert relative_width(prediction) > relative_width(predictor.predict(kernels, "p@1"))
    assert predictor.predict([stranger], "p@1").uncovered == 1
    assert predictor.predict([stranger], "p@1").interval_ms[0] > 0


def test_views_cost_their_dispatch_only(predictor, make):
    view = make.reshape()
    prediction = predictor.predict([view], "p@1")
    assert prediction.latency_ms == pytest.approx(CORRECTION.b + CORRECTION.c * weight_bytes(view) / 1e6)
    assert prediction.uncovered == 0


def test_a_network_of_nothing(predictor):
    prediction = predictor.predict([], "p@1")
    assert (prediction.latency_ms, prediction.uncovered, prediction.kernels) == (0.0, 0.0, ())


def test_bytes_bring_it_back(predictor, kernels, make):
    again = from_bytes(to_bytes(predictor))
    assert (again.target, again.runtime_version, again.correction) == (
        predictor.target,
        predictor.runtime_version,
        CORRECTION,
    )
    fresh = [*kernels, make.qconv(48, 48, 9), make.gemm(10, 10)]
    assert np.array_equal(again.kernels_ms(fresh), predictor.kernels_ms(fresh))
    samples = {name: model.samples for name, model in again.kernel_model.paths.items()}
    assert samples == {
        ANY_PATH: 27,
        "*product:uint8": 27,
        "QLinearConv:uint8:pointwise": 18,
        "QLinearConv:uint8:dense": 9,
    }


def rewritten(data, change):
    """The archive with changed arrays; `change` gets them, and the manifest, to work on."""
    with np.load(io.BytesIO(data)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    manifest = json.loads(arrays["manifest"].tobytes())
    change(manifest, arrays)
    arrays["manifest"] = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


CHANGES = {
    "other format": lambda m, _: m.update(format=1),
    "other terms": lambda m, _: m["terms"].pop(),
    "other features": lambda m, _: m["features"].reverse(),
    "no target": lambda m, _: m.pop("target"),
    "paths of nothing": lambda m, _: m.update(paths=3),
    "no fallback": lambda m, _: m["paths"][0].update(name="Conv"),
    "forest missing": lambda _, a: a.pop("3.forest.left"),
    "cycle": lambda _, a: a["3.forest.left"].fill(0),
    "unknown feature": lambda _, a: a["3.forest.feature"].fill(99),
    "short coefficients": lambda _, a: a.update({"0.coefficients": np.ones(3)}),
    "no number": lambda _, a: a["0.coefficients"].fill(np.nan),
    "correction of words": lambda m, _: m.update(correction=["a", "b", "c"]),
    "interval of one": lambda m, _: m.update(interval=[0.1]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_archives_that_say_something_else_are_refused(predictor, change):
    data = to_bytes(predictor)
    assert "3.forest.left" in np.load(io.BytesIO(data)).files
    from_bytes(rewritten(data, lambda *_: None))
    with pytest.raises(InvalidInput):
        from_bytes(rewritten(data, change))


@pytest.mark.parametrize("data", [b"", b"garbage", b"PK\x03\x04" + bytes(60), b"\x93NUMPY", b"\x80\x04K\x01."])
def test_garbage(data):
    with pytest.raises(InvalidInput, match="not a predictor"):
        from_bytes(data)


def test_a_plain_array_is_no_predictor():
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    with pytest.raises(InvalidInput):
        from_bytes(buffer.getvalue())


@settings(deadline=None, max_examples=60)
@given(share=st.floats(0, 0.999))
def test_truncated_files(predictor, share):
    data = to_bytes(predictor)
    with pytest.raises(InvalidInput):
        from_bytes(data[: int(share * len(data))])


@settings(deadline=None, max_examples=150)
@given(position=st.floats(0, 0.9999), bit=st.integers(0, 7))
def test_flipped_bits_are_refused_or_harmless(predictor, position, bit):
    damaged = bytearray(to_bytes(predictor))
    damaged[int(position * len(damaged))] ^= 1 << bit
    try:
        from_bytes(bytes(damaged))
    except InvalidInput:
        return


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_executed(predictor, tmp_path):
    trap = tmp_path / "sprung"
    members = {"manifest": np.array([Trap(trap)], object), "0.coefficients": np.array([Trap(trap)], object)}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **members)
    for data in (buffer.getvalue(), pickle.dumps(Trap(trap)), with_pickled_member(to_bytes(predictor), trap)):
        with pytest.raises(InvalidInput):
            from_bytes(data)
    assert not trap.exists()


def with_pickled_member(data, trap):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        array = io.BytesIO()
        np.save(array, np.array([Trap(trap)], object), allow_pickle=True)
        target.writestr("extra.npy", array.getvalue())
    return buffer.getvalue()
