"""Networks that another library asks timm or torchvision for, as anomalib does, with a teacher's weights."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision

from methods.base import InputError
from methods.components import teachers
from methods.components.local_weights import replace_downloads

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("architecture", ["resnet18", "convnext_atto"])
def test_a_network_of_timm_gets_the_teachers_features(architecture: str) -> None:
    teacher = teachers.load(f"{architecture}.untrained", {})
    stages = (1, 2, 3) if architecture == "resnet18" else (0, 1, 2)
    with replace_downloads(teacher, None):
        network = timm.create_model(architecture, pretrained=True, features_only=True, out_indices=stages)
    for theirs, ours in zip(network.eval()(IMAGES), teacher(IMAGES), strict=True):
        torch.testing.assert_close(theirs, ours)


def test_a_network_that_is_asked_for_without_weights_stays_random() -> None:
    teacher = teachers.load("resnet18.untrained", {})
    with replace_downloads(teacher, None):
        network = timm.create_model("resnet18", pretrained=False)
    assert not torch.equal(network.conv1.weight, teacher.network.model.conv1.weight)


def test_a_network_of_torchvision_gets_the_teachers_weights() -> None:
    teacher = teachers.load("resnet18.untrained", {})
    with replace_downloads(teacher, None):
        weights = torchvision.models.get_model_weights("resnet18").DEFAULT
        network = torchvision.models.resnet18(weights=weights)
    assert torch.equal(network.layer3[0].conv1.weight, teacher.network.model.layer3[0].conv1.weight)
    assert torchvision.models.get_model_weights("resnet18").DEFAULT is not None  # the patch is gone


@pytest.mark.parametrize("teacher", ["resnet34.untrained", None])
def test_a_network_of_another_architecture_is_refused(teacher: str | None) -> None:
    loaded = teachers.load(teacher, {}) if teacher else None
    with replace_downloads(loaded, None), pytest.raises(InputError, match="weights of resnet18 are asked for: name it"):
        timm.create_model("resnet18", pretrained=True, features_only=True)


def test_a_layer_that_a_teacher_does_not_have_is_named() -> None:
    teacher = teachers.load("resnet18.untrained", {})
    with replace_downloads(teacher, None), pytest.raises(InputError, match=r"beyond stride 16.*such as layer4"):
        timm.create_model("resnet18", pretrained=True, features_only=True)


def test_a_network_that_is_no_teacher_gets_its_weights_from_a_file(tmp_path: Path) -> None:
    weights = timm.create_model("test_vit", pretrained=False).state_dict()
    torch.save(weights, tmp_path / "vit.pth")
    with replace_downloads(None, tmp_path / "vit.pth"):
        network = timm.create_model("test_vit", pretrained=True)
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
