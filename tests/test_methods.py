"""One sweep over every method in methods/: each keeps what the interface promises."""

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

import methods
from benchmarks.schema import SELECTIONS
from benchmarks.sources import sources
from methods.base import Context, InputError, Method, Prediction, Sample
from methods.components import feature_cache
from methods.distillation import CRITERIA, Distillation, Selection

METHODS = [name for name in methods.names() if name != "anomalib"]  # an optional package: test_anomalib.py
TRAINED = [name for name in METHODS if issubclass(methods.load(name), Distillation)]  # by epochs
SMALL: dict[str, Any] = {
    "teacher": "test_resnet.untrained", "image_size": 64, "epochs": 2, "batch_size": 4, "channels": 16,
}  # fmt: skip


def samples(number: int, split: str = "train", size: int = 80) -> list[Sample]:
    """Noisy grey images, each different."""

    def read(seed: int) -> torch.Tensor:
        return torch.randint(
            80, 160, (3, size, size + 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
        )

    return [Sample(f"squares/{split}/{i:012x}", "squares", lambda i=i: read(i)) for i in range(number)]


def create(name: str, **changes: Any) -> Method:
    known = methods.hyper_parameters(methods.load(name))
    return methods.create(name, **{key: value for key, value in (SMALL | changes).items() if key in known})


def predictions(method: Method, seed: int = 0, train: int = 6, **how: Any) -> list[Prediction]:
    context = Context(seed=seed, **how)
    return list(method.fit(samples(train), samples(2, "validation"), context).predict(samples(3, "test"), context))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_states_its_source_and_its_deviations(name: str) -> None:
    method = methods.load(name)
    assert method.paper
    assert method.source
    assert all(isinstance(sentence, str) and sentence.endswith(".") for sentence in method.deviations)
    assert method.__doc__


@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_one_finite_prediction_per_image_in_order(name: str) -> None:
    method = create(name)
    outputs = predictions(method)
    assert len(outputs) == 3
    for prediction in outputs:
        assert isinstance(prediction.score, float)
        assert prediction.anomaly_map.shape == (64, 64)
        assert prediction.anomaly_map.dtype == torch.float32
        assert prediction.anomaly_map.isfinite().all()
    reversed_order = list(method.predict(samples(3, "test")[::-1], Context()))[::-1]
    for prediction, second in zip(outputs, reversed_order, strict=True):
        torch.testing.assert_close(second.anomaly_map, prediction.anomaly_map)


@pytest.mark.parametrize("name", METHODS)
def test_no_test_image_gives_no_prediction(name: str) -> None:
    method = create(name, epochs=1).fit(samples(2), samples(2, "validation"), Context())
    assert list(method.predict([], Context())) == []


@pytest.mark.parametrize("name", METHODS)
def test_a_seed_gives_the_same_predictions_again_and_another_seed_gives_others(name: str) -> None:
    first, second, other = (predictions(create(name), seed) for seed in (1, 1, 2))
    assert all(torch.equal(a.anomaly_map, b.anomaly_map) for a, b in zip(first, second, strict=True))
    assert not any(torch.equal(a.anomaly_map, b.anomaly_map) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("train", [2, 5])
def test_fewer_images_than_a_batch_and_a_last_batch_of_one_work(name: str, train: int) -> None:
    assert len(predictions(create(name), train=train)) == 3


@pytest.mark.parametrize("name", METHODS)
def test_a_single_training_image_works(name: str) -> None:
    assert len(predictions(create(name), train=1)) == 3


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("how", "least"),
    [({"precision": "bfloat16"}, 0.98), ({"channels_last": True}, 0.99), ({"deterministic": False}, 0.99)],
)
def test_every_way_to_compute_gives_nearly_the_same_maps(name: str, how: dict[str, Any], least: float) -> None:
    """With steps so small that rounding does not grow; fits with different seeds correlate by less than 0.6."""
    plain, other = (
        torch.stack(
            [
                prediction.anomaly_map.flatten()
                for prediction in predictions(create(name, epochs=1, learning_rate=1e-4), **way)
            ]
        )
        for way in ({}, how)
    )
    assert torch.corrcoef(torch.stack([plain.flatten(), other.flatten()]))[0, 1] > least
    assert other.std() == pytest.approx(plain.std().item(), rel=0.5)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("architecture", ["resnet18", "resnet34", "wide_resnet50_2", "convnext_atto"])
def test_a_teacher_may_be_any_network_with_maps_at_strides_4_8_and_16(name: str, architecture: str) -> None:
    method = create(name, teacher=f"{architecture}.untrained", epochs=1)
    outputs = predictions(method, train=2)
    assert all(prediction.anomaly_map.isfinite().all() for prediction in outputs)
    assert method.record["teacher"]["name"] == f"{architecture}.untrained"


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("how", [{}, {"precision": "bfloat16", "channels_last": True}], ids=["float32", "bfloat16"])
def test_a_method_that_takes_over_a_state_gives_the_same_bits(name: str, how: dict[str, Any]) -> None:
    fitted, fresh = create(name), create(name)
    expected = predictions(fitted, seed=3, **how)
    state = fitted.state()
    assert state
    stored = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    given = list(fresh.load_state(stored, Context(seed=4, **how)).predict(samples(3, "test"), Context(**how)))
    for prediction, original in zip(given, expected, strict=True):
        assert torch.equal(prediction.anomaly_map, original.anomaly_map)
        assert prediction.score == original.score


@pytest.mark.parametrize("name", METHODS)
def test_the_network_of_a_method_gives_what_it_predicts(name: str) -> None:
    method = create(name)
    expected = predictions(method)
    network = method.network()
    assert network
    images = feature_cache.load_images(samples(3, "test"), 64, None)[range(3)] / 255
    scores, maps = network(images)
    largest = max(prediction.anomaly_map.abs().max().item() for prediction in expected)
    for score, anomaly_map, prediction in zip(scores, maps, expected, strict=True):
        torch.testing.assert_close(anomaly_map, prediction.anomaly_map, rtol=0, atol=1e-3 * largest)
        assert score == anomaly_map.max()


@pytest.mark.parametrize("name", METHODS)
def test_the_state_of_other_hyper_parameters_is_refused(name: str) -> None:
    state = create(name).fit(samples(2), samples(2, "validation"), Context()).state()
    assert state
    with pytest.raises((KeyError, RuntimeError)):
        create(name, teacher="resnet18.untrained").load_state(state, Context())


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(
    ("selection", "validation", "held_out"), [("last", 0, 0), ("validation", 0, 2), ("validation", 2, 0)]
)
def test_held_out_images_are_those_that_are_not_trained_on(
    name: str, selection: str, validation: int, held_out: int
) -> None:
    method = create(name, selection=selection)
    train, further = samples(6), samples(validation, "validation")
    trained, _ = method._hold_out(6, bool(further))  # type: ignore[attr-defined]
    kept = method.held_out(train, further)
    assert len(kept) == held_out
    assert {sample.key for sample in kept}.isdisjoint(train[index].key for index in trained)


@pytest.mark.parametrize("name", METHODS)
def test_progress_is_reported_to_the_end_of_the_fit_and_to_the_last_image(name: str) -> None:
    reports = []
    predictions(create(name), progress=reports.append)
    fits = [report for report in reports if report.phase == "fit"]
    assert fits[-1].done == fits[-1].total
    assert reports[-1][:3] == ("predict", 3, 3)


@pytest.mark.parametrize("name", TRAINED)
def test_progress_is_reported_for_every_epoch(name: str) -> None:
    reports = []
    predictions(create(name), progress=reports.append)
    fits = [report for report in reports if report.phase == "fit"]
    assert [report.done for report in fits] == [1, 2]
    assert all(report.terms for report in fits)


@pytest.mark.parametrize("name", TRAINED)
def test_the_record_holds_a_loss_for_every_epoch(name: str) -> None:
    method = create(name)
    predictions(method)
    assert [entry["epoch"] for entry in method.record["history"]] == [1, 2]
    assert method.record["teacher"]["name"] == "test_resnet.untrained"


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_sise": 64}, "Did you mean 'image_size'"),
        ({"image_size": 100}, "image_size=100"),
        ({"image_size": "large"}, "image_size='large'"),
    ],
)
def test_a_wrong_hyper_parameter_is_refused_before_any_fit(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        methods.create(name, **values)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_sise": 4}, "Did you mean 'batch_size'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"selection": "best"}, "selection='best'"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
    ],
)
def test_a_wrong_hyper_parameter_of_the_training_is_refused_before_it(
    name: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        methods.create(name, **values)


@pytest.mark.parametrize(
    ("module", "affected"),
    [
        ("rd", {"rd", "snl", "aand"}),  # a subclass runs the code of its bases
        ("fd", {"fd", "snl_fd"}),
        ("snl", {"snl"}),
        ("dskd", {"dskd"}),
        ("components.structural", {"snl", "snl_fd"}),
        ("components.contextual", {"dskd"}),
        ("components.amplification", {"aand"}),
        ("components.procedural_teacher", set()),
        ("base", set(METHODS)),
    ],
)
def test_an_edited_module_concerns_the_methods_that_run_it_and_no_others(module: str, affected: set[str]) -> None:
    assert {name for name in METHODS if f"methods.{module}" in sources(f"methods.{name}")} == affected


@pytest.mark.parametrize("name", METHODS)
def test_the_citation_and_the_deviations_are_not_part_of_the_code(name: str) -> None:
    code = "".join(sources(f"methods.{name}").values())
    assert methods.load(name).paper not in code
    assert not any(sentence in code for sentence in methods.load(name).deviations)


def test_the_error_for_an_unknown_method_suggests_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"There is no method 'rdd'\. Did you mean 'rd'"):
        methods.load("rdd")


@pytest.mark.parametrize("name", METHODS)
def test_no_training_image_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no training image"):
        create(name).fit([], [], Context())


def test_samples_cannot_be_relabelled() -> None:
    with pytest.raises(TypeError):
        replace(samples(1)[0], label=1)  # type: ignore[call-arg]


def test_every_selection_has_a_criterion_and_a_name_that_reports_know() -> None:
    assert get_args(Selection) == tuple(CRITERIA) == SELECTIONS
