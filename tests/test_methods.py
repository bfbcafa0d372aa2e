"""One sweep over every method in methods/: what the contract promises, each of them keeps."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import methods
from methods.base import Context, InputError, Method, Prediction, Sample

METHODS = methods.names()
SMALL: dict[str, Any] = {"teacher": "test_resnet.untrained", "image_size": 64, "epochs": 2, "batch_size": 4}


def samples(number: int, split: str = "train", size: int = 80) -> list[Sample]:
    """Noisy grey squares, each another one."""

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
def test_a_method_says_where_it_is_from_and_how_it_differs(name: str) -> None:
    method = methods.load(name)
    assert method.paper
    assert method.source
    assert all(isinstance(sentence, str) and sentence.endswith(".") for sentence in method.deviations)
    assert method.__doc__


@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_one_finite_prediction_per_image_in_order(name: str) -> None:
    method = create(name)
    answers = predictions(method)
    assert len(answers) == 3
    for answer in answers:
        assert isinstance(answer.score, float)
        assert answer.anomaly_map.shape == (64, 64)
        assert answer.anomaly_map.dtype == torch.float32
        assert answer.anomaly_map.isfinite().all()
    reversed_order = list(method.predict(samples(3, "test")[::-1], Context()))[::-1]
    for answer, again in zip(answers, reversed_order, strict=True):
        torch.testing.assert_close(again.anomaly_map, answer.anomaly_map)


@pytest.mark.parametrize("name", METHODS)
def test_no_test_image_gives_no_prediction(name: str) -> None:
    method = create(name, epochs=1).fit(samples(2), samples(2, "validation"), Context())
    assert list(method.predict([], Context())) == []


@pytest.mark.parametrize("name", METHODS)
def test_a_seed_gives_the_same_predictions_again_and_another_seed_gives_others(name: str) -> None:
    first, again, other = (predictions(create(name), seed) for seed in (1, 1, 2))
    assert all(torch.equal(a.anomaly_map, b.anomaly_map) for a, b in zip(first, again, strict=True))
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
    [({"precision": "bfloat16"}, 0.7), ({"channels_last": True}, 0.99), ({"deterministic": False}, 0.99)],
)
def test_every_way_to_compute_gives_nearly_the_same_maps(name: str, how: dict[str, Any], least: float) -> None:
    plain, other = (
        torch.stack([answer.anomaly_map.flatten() for answer in predictions(create(name, epochs=1), **way)])
        for way in ({}, how)
    )
    assert torch.corrcoef(torch.stack([plain.flatten(), other.flatten()]))[0, 1] > least
    assert other.std() == pytest.approx(plain.std().item(), rel=0.5)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("architecture", ["resnet18", "resnet34", "wide_resnet50_2", "convnext_atto"])
def test_a_teacher_may_be_any_network_with_maps_at_strides_4_8_and_16(name: str, architecture: str) -> None:
    method = create(name, teacher=f"{architecture}.untrained", epochs=1)
    answers = predictions(method, train=2)
    assert all(answer.anomaly_map.isfinite().all() for answer in answers)
    assert method.record["teacher"]["name"] == f"{architecture}.untrained"


@pytest.mark.parametrize("name", METHODS)
def test_progress_is_reported_for_every_epoch_and_to_the_last_image(name: str) -> None:
    seen = []
    predictions(create(name), progress=seen.append)
    fits = [report for report in seen if report.phase == "fit"]
    assert [report.done for report in fits] == [1, 2]
    assert all(report.terms for report in fits)
    assert seen[-1][:3] == ("predict", 3, 3)


@pytest.mark.parametrize("name", METHODS)
def test_the_record_holds_a_loss_for_every_epoch(name: str) -> None:
    method = create(name)
    predictions(method)
    assert [entry["epoch"] for entry in method.record["history"]] == [1, 2]
    assert method.record["teacher"]["name"] == "test_resnet.untrained"


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"batch_sise": 4}, "Did you mean 'batch_size'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": "many"}, "batch_size='many'"),
        ({"image_size": 100}, "image_size=100"),
        ({"selection": "best"}, "selection='best'"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
    ],
)
def test_a_wrong_hyper_parameter_is_refused_before_training(name: str, values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        methods.create(name, **values)


def test_an_unknown_method_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"There is no method 'rdd'\. Did you mean 'rd'"):
        methods.load("rdd")


def test_no_training_image_is_refused() -> None:
    with pytest.raises(InputError, match="no training image"):
        create("rd").fit([], [], Context())


def test_samples_cannot_be_relabelled() -> None:
    with pytest.raises(TypeError):
        replace(samples(1)[0], label=1)  # type: ignore[call-arg]
