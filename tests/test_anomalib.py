"""anomalib's models as methods. Most tests need the optional package; those of its absence do not."""

import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from test_methods import predictions, samples

import methods
from benchmarks.sources import sources
from methods import anomalib as adapter
from methods.base import Context, InputError
from methods.components import feature_cache, lightning_fit, teachers, train_loop

ROOT = Path(__file__).parent.parent
SMALL: dict[str, Any] = {"teacher": "resnet18.untrained", "image_size": 64, "epochs": 2, "batch_size": 4}
TRAINED, IN_ONE_PASS = ("ReverseDistillation", "Stfpm"), ("Patchcore", "Padim")


@pytest.fixture
def anomalib() -> Any:
    return pytest.importorskip("anomalib")


def create(model: str, **changes: Any) -> Any:
    return methods.create("anomalib", **(SMALL | {"model": model} | changes))


def maps(method: Any, **how: Any) -> torch.Tensor:
    return torch.stack([prediction.anomaly_map for prediction in predictions(method, **how)])


def test_without_the_package_its_name_and_the_cure_are_told_before_any_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    for attempt in (
        lambda: create("Patchcore").unsupported("toy", "one_class"),
        lambda: create("Patchcore").fit(samples(2), [], Context()),
    ):
        with pytest.raises(
            InputError, match=r"no anomalib is installed, .*: `pip install '\.\[anomalib\]' -c constraints.txt`"
        ):
            attempt()


def test_another_version_of_the_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "1.0.0")
    with pytest.raises(InputError, match=f"anomalib 1.0.0 is installed, and anomalib {adapter.VERSION} is needed"):
        create("Patchcore").unsupported("toy", "one_class")


def test_the_version_is_the_same_everywhere_and_part_of_the_fingerprint() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["anomalib"] == [f"anomalib=={adapter.VERSION}"]
    assert f"anomalib=={adapter.VERSION}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert adapter.VERSION in sources("methods.anomalib")["methods.anomalib"]


def test_images_come_in_the_order_of_our_own_training_loop() -> None:
    batches: list[list[int]] = []

    def terms(batch: Any) -> dict[str, torch.Tensor]:
        batches.append(list(batch))
        return {"loss": network.weight.sum()}

    network = torch.nn.Linear(1, 1)
    train_loop.optimise(
        network, torch.optim.SGD(network.parameters()), terms, 7, epochs=2, batch_size=7,
        learning_rate=lambda epoch: 0.1, context=Context(seed=5), checkpoint=None, fit_id="",
    )  # fmt: skip
    order = lightning_fit._Shuffled(7, seed=5)
    for epoch in (0, 1):
        order.set_epoch(epoch)
        assert list(order) == batches[epoch]


@pytest.mark.parametrize("values", [{"image_size": 100}, {"epochs": 0}, {"batch_size": 0}])
def test_a_hyper_parameter_out_of_range_is_refused(values: dict[str, Any]) -> None:
    ((name, value),) = values.items()
    with pytest.raises(InputError, match=f"{name}={value}"):
        create("Patchcore", **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "PatchCore"}, "anomalib has no model 'PatchCore'. Did you mean 'Patchcore'"),
        ({"arguments": {"num_neighbours": 1}}, "no argument 'num_neighbours'. Did you mean 'num_neighbors'"),
        ({"arguments": {"backbone": "resnet18"}}, "`teacher` sets backbone; remove it"),
        ({"teacher": None}, "has a backbone: name its `teacher`"),
        ({"model": "Csflow"}, "no backbone for the teacher resnet18.untrained: set `teacher: null`"),
        ({"encoder": Path("vit.pth")}, "both a teacher and an encoder"),
    ],
)
def test_a_wrong_name_is_refused_before_any_fit(anomalib: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create(**({"model": "Patchcore"} | values)).unsupported("toy", "one_class")


def test_what_a_model_cannot_do_is_its_reason(anomalib: Any) -> None:
    assert create("Patchcore").unsupported("toy", "one_class") is None
    reasons = {model: create(model).unsupported("toy", "one_class") for model in adapter.UNSUPPORTED}
    reasons["Dinomaly"] = create("Dinomaly", teacher=None).unsupported("toy", "multi_class")
    assert all(reason and model in reason for model, reason in reasons.items())
    assert "ImageNette" in reasons["EfficientAd"]
    assert "unless `encoder` names a file" in reasons["Dinomaly"]


@pytest.mark.parametrize("model", [*TRAINED, *IN_ONE_PASS])
def test_a_seed_gives_the_same_maps_again_and_another_seed_gives_others(anomalib: Any, model: str) -> None:
    first, second, other = (maps(create(model), seed=seed) for seed in (1, 1, 2))
    assert first.shape == (3, 64, 64)
    assert first.dtype == torch.float32
    assert first.isfinite().all()
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("model", [*TRAINED, *IN_ONE_PASS])
def test_a_last_batch_of_one_works(anomalib: Any, model: str) -> None:
    assert maps(create(model), train=5).isfinite().all()


@pytest.mark.parametrize("model", IN_ONE_PASS)
def test_a_model_without_epochs_has_none_in_its_record(anomalib: Any, model: str) -> None:
    reports: list[Any] = []
    method = create(model)
    predictions(method, progress=reports.append)
    assert "epochs" not in method.record["hyper_parameters"]
    assert method.record["history"] == []
    assert [report[:3] for report in reports] == [("fit", 4, 6), ("fit", 6, 6), ("predict", 3, 3)]


@pytest.mark.parametrize("model", TRAINED)
def test_a_model_with_epochs_reports_and_records_each(anomalib: Any, model: str) -> None:
    reports: list[Any] = []
    method = create(model)
    predictions(method, progress=reports.append)
    assert method.record["hyper_parameters"]["epochs"] == 2
    assert [entry["epoch"] for entry in method.record["history"]] == [1, 2]
    assert all(entry["terms"]["train_loss"] > 0 for entry in method.record["history"])
    assert [report[:3] for report in reports] == [("fit", 1, 2), ("fit", 2, 2), ("predict", 3, 3)]


def test_the_model_looks_through_the_eyes_of_the_named_teacher(anomalib: Any) -> None:
    """Its features of our images are the teacher's own, although anomalib builds the network itself."""
    method = create("Stfpm").fit(samples(4), [], Context())
    images = feature_cache.load_images(samples(2, "test"), 64, None)[[0, 1]]
    teacher = teachers.load("resnet18.untrained", {})
    expected = teacher(teacher.normalise(images))
    seen = method.model_.model.teacher_model(method.model_.pre_processor(images / 255)).values()
    for ours, theirs in zip(expected, seen, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


def test_layers_that_a_teacher_does_not_have_are_named(anomalib: Any) -> None:
    with pytest.raises(InputError, match=r"beyond stride 16.*such as layer4"):
        create("Patchcore", arguments={"layers": ["layer4"]}).fit(samples(2), [], Context())


def test_an_error_of_the_model_is_an_input_error(anomalib: Any) -> None:
    with pytest.raises(InputError, match=r"anomalib's Padim: .*n_features"):
        create("Padim", arguments={"n_features": 10_000}).fit(samples(2), [], Context())


def test_networks_of_torchvision_get_the_teacher_too(anomalib: Any) -> None:
    method = create("UniNet", teacher="resnet50.untrained", epochs=1)
    assert maps(method).isfinite().all()
    weights = method.model_.model.teachers.source_teacher.state_dict()
    teacher: Any = teachers.load("resnet50.untrained", {}).network
    assert torch.equal(weights["layer3.0.conv1.weight"], teacher.model.state_dict()["layer3.0.conv1.weight"])


def test_a_transformer_gets_its_weights_from_a_file(anomalib: Any, tmp_path: Path) -> None:
    name, file = "vit_small_patch14_reg4_dinov2", tmp_path / "vit.pth"
    weights = timm.create_model(name, pretrained=False).state_dict()
    torch.save(weights, file)
    arguments = {"encoder_name": name}
    method = create("Dinomaly", teacher=None, encoder=file, image_size=224, epochs=1, arguments=arguments)
    assert method.unsupported("toy", "multi_class") is None
    assert maps(method).shape == (3, 224, 224)
    encoder = method.model_.model.encoder.feature_extractor.state_dict()
    assert all(torch.equal(encoder[key], weights[key]) for key in weights if key in encoder)
    assert method.record["teacher"]["name"] == "vit"
    file.write_bytes(b"not weights")
    with pytest.raises(InputError, match="anomalib's Dinomaly"):
        create("Dinomaly", teacher=None, encoder=file, image_size=224, arguments=arguments).fit(
            samples(2), [], Context()
        )


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("model", TRAINED)
def test_an_interrupted_fit_ends_with_the_same_maps(
    anomalib: Any, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on after its last whole epoch; the next one is begun again."""
    monkeypatch.setattr(train_loop, "CHECKPOINT_SECONDS", -1)
    seen = []

    def interrupt(progress: Any) -> None:
        seen.append(progress.done)
        if progress.done == 3:
            raise Interrupted

    whole = create(model, epochs=4)
    expected = maps(whole)
    context = Context(checkpoint=tmp_path / "fit.pt", progress=interrupt)
    with pytest.raises(Interrupted):
        create(model, epochs=4).fit(samples(6), [], context)
    resumed = create(model, epochs=4)
    reports: list[Any] = []
    assert torch.equal(maps(resumed, checkpoint=context.checkpoint, progress=reports.append), expected)
    assert [report.done for report in reports if report.phase == "fit"] == [3, 4]
    assert [e["terms"] for e in resumed.record["history"]] == [e["terms"] for e in whole.record["history"]]
