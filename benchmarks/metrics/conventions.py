"""Conventions: how a localization metric is computed where the field disagrees. Each is named, none is silent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.metrics import localization
from benchmarks.metrics.localization import GroundTruth


class Convention(NamedTuple):
    """How masks are brought to the evaluation size, and how PRO is computed there.

    Attributes:
        name: as in `CONVENTIONS`.
        mask_threshold: a resized mask counts as defect above this: 0 keeps every touched pixel, 0.5 about the area.
        size: evaluation size: that of the anomaly maps, a square of this many pixels, or the image's native size.
        pro: `pooled` over all test images, exactly; `per_image` as RD's code; `rescaled` as STFPM's code;
            `saturated`: pooled and exact, with LOCO's regions and saturation thresholds (sPRO).
        fpr_limit: where the area under the PRO curve ends.
    """

    name: str
    mask_threshold: float
    size: Literal["map", "native"] | int
    pro: Literal["pooled", "per_image", "rescaled", "saturated"]
    fpr_limit: float

    def describe(self, map_size: tuple[int, int]) -> str:
        """What stands in a table, e.g. "pooled, FPR<=0.3, mask>0, 256 px"; `map_size` is (h, w) of the maps."""
        relation = "<" if self.pro == "per_image" else "<="
        return f"{self.pro}, FPR{relation}{self.fpr_limit:g}, {self.describe_pixels(map_size)}"

    def describe_pixels(self, map_size: tuple[int, int]) -> str:
        """What of it matters to the pixel metrics, e.g. "mask>0, 256 px"."""
        height, width = self.target(map_size, (0, 0))
        pixels = "native" if self.size == "native" else f"{height}" if height == width else f"{height}x{width}"
        return f"mask>{self.mask_threshold:g}, {pixels} px"

    def target(self, map_size: tuple[int, int], native_size: tuple[int, int]) -> tuple[int, int]:
        """The evaluation size (H, W) for maps and masks of these sizes."""
        if isinstance(self.size, int):
            return self.size, self.size
        return map_size if self.size == "map" else native_size

    def aupro(self, maps: NDArray[np.floating], truth: GroundTruth) -> float:
        """The area under the PRO curve under this convention. Maps and truth are at the evaluation size."""
        return _PRO[self.pro](maps, truth, self.fpr_limit)


_PRO: dict[str, Callable[[NDArray[np.floating], GroundTruth, float], float]] = {
    "pooled": localization.aupro,
    "saturated": localization.aupro,  # the saturation lies in the ground truth
    "per_image": localization.per_image_pro,
    "rescaled": localization.rescaled_pro,
}

CONVENTIONS = {
    convention.name: convention
    for convention in (
        Convention("default", mask_threshold=0, size="map", pro="pooled", fpr_limit=0.3),
        Convention("loco", mask_threshold=0, size="native", pro="saturated", fpr_limit=0.05),
        Convention("mvtec_ad_2", mask_threshold=0, size="native", pro="pooled", fpr_limit=0.05),
        Convention("rd_official", mask_threshold=0.5, size=256, pro="per_image", fpr_limit=0.3),
        Convention("stfpm_official", mask_threshold=0, size=256, pro="rescaled", fpr_limit=0.3),
        # One choice at a time. Beside `pooled_256`: rescaling alone makes `stfpm_official`, the native size alone
        # `pooled_native`, the masks' threshold alone `pooled_256_half`; beside the last, PRO per image `rd_official`.
        Convention("pooled_256", mask_threshold=0, size=256, pro="pooled", fpr_limit=0.3),
        Convention("pooled_256_half", mask_threshold=0.5, size=256, pro="pooled", fpr_limit=0.3),
        Convention("pooled_native", mask_threshold=0, size="native", pro="pooled", fpr_limit=0.3),
    )
}


def fit_masks(masks: Sequence[NDArray[np.bool_]], size: tuple[int, int], threshold: float) -> NDArray[np.bool_]:
    """Bring native masks to one size: resize bilinearly with antialiasing, then keep what exceeds the threshold.

    The resize is Pillow's, on 8 bits, as torchvision applies it to a mask file in the official code of RD, which then
    thresholds at 0.5 and thereby roughly keeps a defect's area; a defect smaller than an evaluation pixel vanishes.
    Thresholding at 0 keeps every pixel that a defect touches: none is lost (up to a shrink of about 20 to 1, where a
    single pixel rounds to 0), and each is dilated by about a pixel. STFPM thresholds at 0 too, after OpenCV's bilinear
    resize, which reads only the nearest four source pixels: it dilates less, and may miss a tiny defect where this
    does not. A mask that has the size already is not changed.

    Args:
        masks: N arrays (H, W) bool; sizes may differ.
        size: (h, w) to bring them to.
        threshold: in [0, 1), of a mask that is 0 without and 1 with defect.

    Returns:
        (N, h, w) bool.
    """
    fitted = np.zeros((len(masks), *size), bool)
    for target, mask in zip(fitted, masks, strict=True):
        if mask.any():
            resized = Image.fromarray(mask.astype(np.uint8) * 255).resize(size[::-1], Image.Resampling.BILINEAR)
            target[:] = np.asarray(resized) > 255 * threshold
    return fitted


def fit_maps(maps: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.floating]:
    """Bring anomaly maps (N, h, w) to a size (H, W) bilinearly, as (N, H, W); unchanged where they have it already."""
    if maps.shape[1:] == size:
        return maps
    stacked = torch.from_numpy(np.require(maps, requirements=["C", "W"]))[:, None]  # (N, 1, h, w)
    return torch.nn.functional.interpolate(stacked, size, mode="bilinear", antialias=True)[:, 0].numpy()
