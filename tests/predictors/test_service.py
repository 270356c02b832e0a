"""From measurements on this machine to answers over the wire: profile, table, service."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import helper

from milliseek.client import Client
from milliseek.db.artefacts import save_artefact
from milliseek.db.predictors import add_predictor
from milliseek.devices.local import LocalDevice
from milliseek.errors import InvalidInput, NotFound, NotReady
from milliseek.kernels.kernel import Kernel, TensorSpec
from milliseek.predictors.lookups import latency_table as table_module
from milliseek.predictors.lookups.latency_table import latency_table
from milliseek.predictors.lookups.lookup import LatencyLookup
from milliseek.predictors.networks.files import QUANTISED_NOTE
from milliseek.predictors.networks.splitting import split_network
from milliseek.predictors.profiles.evaluation import EvaluatedModel, measure_models, summary
from milliseek.predictors.profiles.fitting import is_held_out
from milliseek.predictors.profiles.measuring import Measurer
from milliseek.predictors.profiles.profiling import profile
from milliseek.predictors.service import LatencyService
from milliseek.predictors.stored.versions import newest_predictor
from milliseek.predictors.targets import device_target
from milliseek.rpc.convert import prediction_to_proto
from milliseek.rpc.server import InProcessServer
from milliseek.spaces.codes import encode_genes
from milliseek.spaces.onnx_network import network_model, random_parameters
from milliseek.spaces.space import Space, random_space, random_subnet

TARGET = "local/onnxruntime/int8"
SPACE = "mini32-01-01"


@pytest.fixture(scope="module")
def service(profiled):
    with LatencyService(profiled.database) as running:
        yield running


@pytest.fixture(scope="module")
def client(service):
    with InProcessServer(service) as server, Client(server.address, timeout_s=120) as connected:
        yield connected


def subnets_of(space, count=4):
    rng = np.random.default_rng(5)
    return [random_subnet(Space.decode(space), rng) for _ in range(count)]


def file_of(subnet, precision="int8", weight_bits=7):
    network = subnet.network(10)
    return network_model(network, random_parameters(network.layers, weight_bits), precision)


def test_a_profile_is_a_predictor_in_the_database(profiled):
    made, name = profiled.profile, profiled.target.name
    assert (made.target, made.predictor) == (name, f"{name}@1")
    assert made.kernels >= 30
    assert made.networks >= 4
    assert made.held_out["networks"]["networks"] == made.networks
    version = newest_predictor(profiled.database, TARGET)
    assert (version.name, version.kernels, version.networks) == (made.predictor, made.kernels, made.networks)
    assert version.predictor.runtime_version == profiled.target.runtime_version


def test_a_tenth_of_all_kernels_is_never_trained_on(make):
    kernels = [make.gemm(cin, cout) for cin in range(8, 48) for cout in range(8, 58)]
    assert 0.07 < np.mean([is_held_out(kernel) for kernel in kernels]) < 0.13
    assert is_held_out(kernels[0]) == is_held_out(make.gemm(8, 8)), "decided by what it is"


def test_an_int8_file(service, profiled):
    subnet = subnets_of(SPACE)[0]
    prediction = service.predict_model(service.store_model(file_of(subnet), "net.onnx"), TARGET)
    low, high = prediction.interval_ms
    assert 0 < low < prediction.latency_ms < high < np.inf
    assert (prediction.target, prediction.predictor) == (profiled.target.name, profiled.profile.predictor)
    assert prediction.notes == ()
    assert prediction.uncovered < 0.05
    assert prediction.latency_ms == pytest.approx(sum(k.latency_ms * k.count for k in prediction.kernels))


def test_an_fp32_file_on_an_int8_target_is_quantised_and_says_so(service):
    subnet = subnets_of(SPACE)[0]
    as_int8, as_fp32 = (
        service.predict_model(service.store_model(file_of(subnet, precision), "net.onnx"), TARGET)
        for precision in ("int8", "fp32")
    )
    assert as_fp32.notes == (QUANTISED_NOTE,)
    assert "QLinearConv 1x1" in {kernel.kind for kernel in as_fp32.kernels}
    assert 0.5 < as_fp32.latency_ms / as_int8.latency_ms < 2


def test_a_model_is_split_once(service, monkeypatch):
    sha256 = service.store_model(file_of(subnets_of(SPACE)[1]), "net.onnx")
    first = service.predict_model(sha256, TARGET)
    for split in ("split_whole", "split_hollow"):
        monkeypatch.setattr(f"milliseek.predictors.service.{split}", lambda *_: pytest.fail("split again"))
    assert service.predict_model(sha256, TARGET) == first


@pytest.mark.slow
def test_the_table_adds_up_to_what_kernels_predict(service, profiled):
    version = newest_predictor(profiled.database, TARGET)
    rng = np.random.default_rng(8)
    with LocalDevice(profiled.target.target) as device:
        for _ in range(4):
            space = random_space(profiled.hyperspace, rng)
            subnet = random_subnet(space, rng)
            model = file_of(subnet, weight_bits=profiled.target.weight_bits)
            kernels = [use.kernel for use in split_network(device, model)]
            whole = version.predictor.predict(kernels, version.name)
            by_table = service.predict_subnets(space.encoding, TARGET, encode_genes([subnet]))
            assert by_table.latency_ms[0] == pytest.approx(whole.latency_ms, rel=1e-3)
            assert by_table.interval == version.predictor.correction.interval
            assert by_table.predictor == whole.predictor


@pytest.mark.parametrize("name", ["mini32", SPACE])
def test_tables_have_every_block_of_a_space_or_hyperspace(service, profiled, name):
    table = service.latency_table(name, TARGET)
    assert (table.space, table.target, table.predictor) == (name, profiled.target.name, profiled.profile.predictor)
    assert (table.latency_ms > 0).all()
    assert np.isfinite(table.latency_ms).all()
    genes = encode_genes(subnets_of(SPACE))
    by_table = LatencyLookup(table).subnets_ms(Space.decode(SPACE), genes)
    assert by_table == pytest.approx(service.predict_subnets(SPACE, TARGET, genes).latency_ms)


def test_a_table_is_compiled_once_and_stored(service, profiled, monkeypatch):
    first = service.latency_table(SPACE, TARGET)
    monkeypatch.setattr(table_module, "layer_kernels", lambda *_: pytest.fail("compiled again"))
    stored = latency_table(profiled.database, newest_predictor(profiled.database, TARGET), SPACE)
    assert np.array_equal(stored.latency_ms, first.latency_ms)
    assert np.array_equal(stored.keys, first.keys)
    assert service.latency_table(SPACE, first.predictor) is first
    with pytest.raises(NotFound, match="has no version 77"):
        service.latency_table(SPACE, f"{TARGET}@77")


def test_a_table_lacks_the_blocks_of_other_spaces(service):
    lookup = LatencyLookup(service.latency_table("mini32-00-00", TARGET))
    with pytest.raises(NotReady, match="lacks a block"):
        lookup.subnets_ms(Space.decode("mini32-11-01"), encode_genes(subnets_of("mini32-11-01")))


def test_no_subnets_take_no_time(service):
    genes = encode_genes(subnets_of(SPACE))[:0]
    assert service.predict_subnets(SPACE, TARGET, genes).latency_ms.shape == (0,)


def test_genes_that_are_no_subnets(service):
    genes = encode_genes(subnets_of(SPACE))
    with pytest.raises(InvalidInput, match=r"are an array \(subnets, "):
        service.predict_subnets(SPACE, TARGET, genes[:, :-1])
    genes[2, 0] = 32
    with pytest.raises(InvalidInput, match="Row 2"):
        service.predict_subnets(SPACE, TARGET, genes)
    with pytest.raises(InvalidInput, match="hyperspace"):
        service.predict_subnets("mini32", TARGET, genes)
    with pytest.raises(NotFound, match="maxi32"):
        service.predict_subnets("maxi32-01-01", TARGET, genes)


def ask_everything(service, target):
    yield lambda: service.predict_model("0" * 64, target)
    yield lambda: service.predict_subnets(SPACE, target, encode_genes(subnets_of(SPACE)))
    yield lambda: service.predict_kernels(target, [])
    yield lambda: service.latency_table(SPACE, target)


def test_unknown_targets(service, profiled):
    for target in ("pixel6/litert/int8", "local/onnxruntime/int8/64t"):
        for ask in ask_everything(service, target):
            with pytest.raises(NotFound, match=profiled.target.name) as caught:
                ask()
            assert f"milliseek profile {target}" in caught.value.remedy


def test_a_target_without_a_predictor(service, profiled):
    device_target(profiled.database, "local/onnxruntime/fp32")
    for ask in ask_everything(service, "local/onnxruntime/fp32"):
        with pytest.raises(NotReady, match="no predictor") as caught:
            ask()
        assert "milliseek profile local/onnxruntime/fp32" in caught.value.remedy


def test_malformed_targets(service):
    for ask in ask_everything(service, "phone"):
        with pytest.raises(InvalidInput, match="'phone' is not a target"):
            ask()


@pytest.mark.parametrize("target", ["local/onnxruntime/fp16", "local/onnxruntime+gpu/int8"])
def test_targets_that_this_machine_cannot_be(profiled, target):
    with pytest.raises(InvalidInput, match="not supported"):
        device_target(profiled.database, target)


def test_targets_of_other_machines_and_runtimes(profiled):
    with pytest.raises(NotFound, match="not this machine"):
        device_target(profiled.database, "pixel6/onnxruntime/int8")
    with pytest.raises(NotFound, match="runtime 'ncnn'"):
        device_target(profiled.database, "local/ncnn/int8")


def test_models_that_are_none(service):
    with pytest.raises(InvalidInput, match=r"broken\.onnx"):
        service.store_model(file_of(subnets_of(SPACE)[0])[:-200], "broken.onnx")
    with pytest.raises(NotFound, match="0000"):
        service.predict_model("0" * 64, TARGET)


def test_a_model_that_the_predictor_knows_little_of(service):
    """Sin was never measured: its share is uncovered, and the interval wider."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Sin", ["x"], ["y"])],
        "sine",
        [value("x", onnx.TensorProto.FLOAT, [1, 3, 64, 64])],
        [value("y", onnx.TensorProto.FLOAT, [1, 3, 64, 64])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    prediction = service.predict_model(service.store_model(model.SerializeToString(), "sine.onnx"), TARGET)
    assert prediction.uncovered == 1
    assert [(k.kind, k.covered) for k in prediction.kernels if not k.covered] == [("Sin", False)]


def test_kernels_of_a_prediction_asked_for_one_by_one(service):
    prediction = service.predict_model(service.store_model(file_of(subnets_of(SPACE)[0]), "net.onnx"), TARGET)
    specs = [kernel.spec for kernel in prediction.kernels]
    latencies = service.predict_kernels(TARGET, [*specs, specs[0]])
    assert latencies.predictor == prediction.predictor
    assert {kernel.count for kernel in latencies.kernels} == {1}
    assert [kernel.spec for kernel in latencies.kernels] == [*specs, specs[0]]
    each = [(kernel.kind, kernel.config, kernel.latency_ms, kernel.covered) for kernel in latencies.kernels]
    asked = [(kernel.kind, kernel.config, kernel.latency_ms, kernel.covered) for kernel in prediction.kernels]
    assert each == [*asked, asked[0]]
    assert service.predict_kernels(TARGET, []).kernels == ()


def test_texts_that_are_no_kernels_of_the_target(service, make):
    good = make.gemm(8, 8)
    with pytest.raises(InvalidInput, match="should be a kernel is none"):
        service.predict_kernels(TARGET, [good.to_json(), "{}"])
    elsewhere = dataclasses.replace(good, domain="tflite", op_type="FULLY_CONNECTED")
    with pytest.raises(InvalidInput, match=r"Kernel 1 \(FULLY_CONNECTED\) is not one that onnxruntime executes"):
        service.predict_kernels(TARGET, [good.to_json(), elsewhere.to_json()])


def test_kernels_of_impossible_sizes(service, make):
    huge = TensorSpec((1 << 24, 1 << 24), "float32")
    odd = (
        dataclasses.replace(make.gemm(8, 8), inputs=(huge, huge), outputs=(huge,)),
        dataclasses.replace(make.qconv(8, 8, 8), attributes=(("group", 1 << 40),)),
        Kernel("", "Transpose", (("perm", (7, 8)),), (), (), 1),
    )
    latencies = service.predict_kernels(TARGET, [kernel.to_json() for kernel in odd])
    assert all(0 < kernel.latency_ms < np.inf for kernel in latencies.kernels)
    window = (("kernel_shape", (1 << 40,) * 64),)
    beyond = Kernel("", "MaxPool", window, (huge,), (huge,), 12)
    with pytest.raises(InvalidInput, match="sizes of a kernel are beyond any device"):
        service.predict_kernels(TARGET, [beyond.to_json()])


def test_an_answer_stays_small(service):
    """Also that about a network of 200 different kernels, each with its spec."""
    subnet = subnets_of(SPACE)[0]
    prediction = service.predict_model(service.store_model(file_of(subnet), "net.onnx"), TARGET)
    message = prediction_to_proto(prediction)
    assert message.ByteSize() / len(prediction.kernels) < 600


def test_the_targets(service, profiled):
    (info,) = service.targets()
    assert (info.name, info.predictor) == (profiled.target.name, profiled.profile.predictor)
    assert info.runtime_version == profiled.target.runtime_version
    assert info.held_out == profiled.profile.held_out


def test_the_same_answers_over_the_wire(client, service):
    genes = encode_genes(subnets_of(SPACE))
    near, far = service.predict_subnets(SPACE, TARGET, genes), client.predict_subnets(SPACE, TARGET, genes)
    assert np.array_equal(near.latency_ms, far.latency_ms)
    assert (near.interval, near.predictor) == (far.interval, far.predictor)
    model = file_of(subnets_of(SPACE)[2])
    prediction = client.predict(model, TARGET)
    assert prediction == service.predict_model(service.store_model(model, "m"), TARGET)
    specs = [kernel.spec for kernel in prediction.kernels]
    assert client.predict_kernels(specs, TARGET) == service.predict_kernels(TARGET, specs)
    assert client.predict_many([model, model], TARGET) == [prediction] * 2
    table = client.latency_table("mini32", TARGET)
    assert np.array_equal(table.latency_ms, service.latency_table("mini32", TARGET).latency_ms)
    assert LatencyLookup(table).subnets_ms(Space.decode(SPACE), genes) == pytest.approx(near.latency_ms)
    assert client.targets() == service.targets()


def test_the_same_errors_over_the_wire(client):
    with pytest.raises(NotFound, match="milliseek profile"):
        client.latency_table("mini32", "pixel6/litert/int8")
    with pytest.raises(InvalidInput, match="not a target"):
        client.latency_table("mini32", "phone")
    with pytest.raises(NotReady, match="no predictor"):
        client.latency_table("mini32", "local/onnxruntime/fp32")
    with pytest.raises(InvalidInput):
        client.predict(b"garbage", TARGET)
    with pytest.raises(InvalidInput, match="Row 0"):
        client.predict_subnets(SPACE, TARGET, np.zeros_like(encode_genes(subnets_of(SPACE))))


def test_measuring_files_for_an_evaluation(profiled, service):
    names = ["0.onnx", "1.onnx"]
    files = list(zip(names, map(file_of, subnets_of(SPACE)), strict=False))
    told = []
    found = measure_models(profiled.database, profiled.target, files, visits=1, on_progress=lambda *p: told.append(p))
    assert [m.path for m in found] == names
    assert all(m.latency_ms > 0 and m.visits >= 1 and m.notes == () for m in found)
    assert all(done <= total for done, total in told)
    assert told[-1][0] >= 2


def test_the_summary_of_an_evaluation():
    models = [
        EvaluatedModel("a.onnx", 1.04, (0.9, 1.2), 1.0, 0.0, False, ()),
        EvaluatedModel("b.onnx", 1.8, (1.6, 1.95), 2.0, 0.0, False, ()),
    ]
    assert [m.error for m in models] == pytest.approx([0.04, -0.1])
    found = summary(models)
    assert found["mape"] == pytest.approx(0.07)
    assert (found["within_5"], found["coverage"]) == (0.5, 0.5)


def test_a_kernel_that_the_runtime_refuses_is_remembered_and_skipped(profiled, make):
    with LocalDevice(profiled.target.target) as device:
        measurer = Measurer(profiled.database, profiled.target, device)
        good, bad = make.gemm(8, 8), make.add(8, 5)
        bad = type(bad)("", "NoSuchOperator", bad.attributes, bad.inputs, bad.outputs, 14)
        assert measurer.measure_kernels([bad, good, bad]) == 1
        assert set(measurer.failures) == {bad.hash}


def test_a_damaged_predictor_in_the_database_is_named(profiled):
    """A later version that is no predictor: stored properly, but of another kind."""
    database, target = profiled.database, device_target(profiled.database, "local/onnxruntime/int8/2t")
    with database.session() as session:
        sha256 = save_artefact(session, database.artefacts, b"no predictor", "predictor")
        add_predictor(
            session, target.row_id, runtime_version="1", artefact_sha256=sha256, held_out={}, kernels=1, networks=1
        )
    with pytest.raises(InvalidInput, match="not a predictor"):
        newest_predictor(database, target.name)


@pytest.mark.slow
def test_the_next_profile_is_the_next_version(profiled):
    again = profile(profiled.database, profiled.target, [profiled.hyperspace], budget_s=6, add=True, seed=1)
    assert again.predictor == f"{profiled.target.name}@2"
    assert again.kernels >= profiled.profile.kernels, "earlier measurements count"
    assert again.networks >= profiled.profile.networks
    assert newest_predictor(profiled.database, TARGET).name == again.predictor


@pytest.mark.slow
def test_a_like_target_starts_from_a_known_one(profiled):
    """The other core, or the same one under another name: few kernels are enough."""
    target = device_target(profiled.database, TARGET + "@0")
    base = newest_predictor(profiled.database, TARGET)
    made = profile(profiled.database, target, [profiled.hyperspace], budget_s=8, base=base, max_kernels=20)
    assert made.predictor == f"{target.name}@1"
    assert made.kernels <= 20
    adapted = newest_predictor(profiled.database, target.name).predictor.kernel_model
    assert adapted.paths.keys() == base.predictor.kernel_model.paths.keys()
    factors = [model.scale for model in adapted.paths.values()]
    assert 0.3 < np.median(factors) < 3


def test_adding_to_nothing_is_refused(profiled):
    target = device_target(profiled.database, TARGET + "/2t@0-1")
    with pytest.raises(NotReady, match="no predictor to add to"):
        profile(profiled.database, target, [profiled.hyperspace], budget_s=1, add=True)
