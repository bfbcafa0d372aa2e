"""Teachers: what is built, what is loaded, and what is refused."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from methods.base import InputError
from methods.components import teachers
from methods.components.teachers import Teacher

WEIGHTS = Path(__file__).parent.parent.parent / "shared" / "weights" / "resnet18.tv_in1k.layers1-3.safetensors"


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def save_weights(architecture: str, file: Path) -> Path:
    save_file(timm.create_model(architecture).state_dict(), file)
    return file


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", [64, 128, 256]),
        ("resnet34", [64, 128, 256]),
        ("wide_resnet50_2", [256, 512, 1024]),
        ("convnext_atto", [40, 80, 160]),
    ],
)
def test_a_teacher_gives_three_maps_at_strides_4_8_and_16(name: str, channels: list[int]) -> None:
    teacher = teachers.load(f"{name}.untrained", {})
    shapes = [tuple(level.shape) for level in teacher(torch.zeros(1, 3, 64, 64))]
    assert shapes == [
        (1, width, 64 // stride, 64 // stride) for width, stride in zip(channels, (4, 8, 16), strict=True)
    ]


def test_wide_resnet_50_up_to_its_third_stage_has_the_stated_number_of_parameters() -> None:
    assert round(parameters(teachers.load("wide_resnet50_2.untrained", {})) / 1e6, 2) == 24.86


def test_layers_after_the_last_map_are_not_run() -> None:
    teacher = teachers.load("resnet18.untrained", {})
    with FlopCounterMode(display=False) as counter:
        teacher(torch.zeros(1, 3, 256, 256))
    assert round(counter.get_total_flops() / 1e9, 1) == 3.7  # with the fourth stage it would be 4.7


def test_a_teacher_is_frozen_in_evaluation_mode_even_after_train_is_called() -> None:
    teacher = teachers.load("test_resnet.untrained", {}).train()
    assert not teacher.training
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_local_file_gives_the_features_of_the_model_it_was_saved_from(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = timm.create_model("wide_resnet50_2").eval()
    file = tmp_path / "wide.safetensors"
    save_file(model.state_dict(), file)
    teacher = teachers.load("wide_resnet50_2.tv_in1k", {"wide_resnet50_2.tv_in1k": file})
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.layer3(model.layer2(model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(image)))))))
    torch.testing.assert_close(teacher(image)[2], expected)
    assert teacher.pretraining == "ImageNet-1k"


def test_the_digest_is_of_the_file_and_changes_with_it(tmp_path: Path) -> None:
    first = save_weights("test_resnet", tmp_path / "a.safetensors")
    second = save_weights("test_resnet", tmp_path / "b.safetensors")
    name = "test_resnet.r160_in1k"
    assert teachers.digest(name, {name: first}) != teachers.digest(name, {name: second})
    assert teachers.digest(name, {name: first}) == teachers.load(name, {name: first}).digest


def test_an_untrained_teacher_is_labelled_and_always_the_same() -> None:
    first, second = (teachers.load("test_resnet.untrained", {}) for _ in range(2))
    assert "untrained" in first.pretraining
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(first(image), second(image), rtol=0, atol=0)


def test_weights_of_another_architecture_are_refused_by_name(tmp_path: Path) -> None:
    file = save_weights("resnet34", tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors does not hold weights of resnet18"):
        teachers.load("resnet18.tv_in1k", {"resnet18.tv_in1k": file})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19.tv_in1k", "unknown to timm"),
        ("resnet18", "tv_in1k"),
        ("vit_tiny_patch16_224.untrained", "cannot be a teacher"),
    ],
)
def test_an_unsuitable_teacher_is_refused_with_a_suggestion(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        teachers.load(name, {})


def test_a_missing_or_broken_weight_file_is_named(tmp_path: Path) -> None:
    name = "resnet18.tv_in1k"
    with pytest.raises(InputError, match=r"missing: .*nowhere\.safetensors"):
        teachers.load(name, {name: tmp_path / "nowhere.safetensors"})
    (tmp_path / "broken.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match=r"broken\.safetensors"):
        teachers.load(name, {name: tmp_path / "broken.safetensors"})


@pytest.mark.realdata
@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"{WEIGHTS} is missing")
def test_the_real_imagenet_teacher_loads_whole() -> None:
    teacher: Teacher = teachers.load("resnet18.tv_in1k", {"resnet18.tv_in1k": WEIGHTS})
    assert teacher.pretraining == "ImageNet-1k"
    assert round(parameters(teacher) / 1e6, 2) == 2.78


def test_a_local_file_may_state_its_architecture_and_training_data(tmp_path: Path) -> None:
    state = {key: value.contiguous() for key, value in timm.create_model("test_resnet").state_dict().items()}
    file = tmp_path / "mine.safetensors"
    save_file(state, file, {"teacher": json.dumps({"architecture": "test_resnet", "pretraining": "own images"})})
    teacher = teachers.load("mine", {"mine": file})
    assert (teacher.architecture, teacher.pretraining) == ("test_resnet", "own images")
    save_file(state, file, {"teacher": "test_resnet"})
    with pytest.raises(InputError, match="not a readable safetensors file"):
        teachers.load("mine", {"mine": file})
