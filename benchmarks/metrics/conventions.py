"""Conventions: how a localization metric is computed where the field disagrees. Each is named, none is silent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from benchmarks.metrics.resize import MaskRule, Size

Pro: TypeAlias = Literal["pooled", "per_image", "rescaled", "saturated"]


class Convention(NamedTuple):
    """At what size maps and masks are compared, how masks are brought there, and how PRO is computed there.

    Attributes:
        name: as in `CONVENTIONS`.
        size: of each image: its own (native), that of the anomaly maps, or a square of this many pixels.
        masks: how they are brought there: a rule of `resize.fit_masks`; None at native size: as annotated.
        pro: `pooled` over all test images, exactly; `per_image` as RD's code; `rescaled` as STFPM's code;
            `saturated`: pooled and exact, with LOCO's regions and saturation thresholds (sPRO).
        fpr_limit: where the area under the PRO curve ends.
    """

    name: str
    size: Literal["native", "map"] | int
    masks: MaskRule | None
    pro: Pro
    fpr_limit: float

    def describe(self) -> str:
        """What stands in a table, e.g. "pooled, FPR<=0.3, native size"."""
        relation = "<" if self.pro == "per_image" else "<="
        return f"{self.pro}, FPR{relation}{self.fpr_limit:g}, {self.describe_pixels()}"

    def describe_pixels(self) -> str:
        """What of it matters to the pixel metrics, e.g. "mask>0.5, 256 px"."""
        if self.size == "native":
            return "native size"
        return f"{self.masks}, size of the maps" if self.size == "map" else f"{self.masks}, {self.size} px"

    def sizes(self, map_size: Size, native: Sequence[Size]) -> list[Size]:
        """At what size each image is evaluated, for maps of one size and images of these native sizes."""
        if self.size == "native":
            return list(native)
        return [map_size if self.size == "map" else (self.size, self.size)] * len(native)


CONVENTIONS = {
    convention.name: convention
    for convention in (
        # As MVTec's evaluation code: each map at the size of its image.
        Convention("default", "native", None, pro="pooled", fpr_limit=0.3),
        Convention("map_size", "map", "mask>0", pro="pooled", fpr_limit=0.3),
        Convention("loco", "native", None, pro="saturated", fpr_limit=0.05),
        Convention("mvtec_ad_2", "native", None, pro="pooled", fpr_limit=0.05),
        # hq-deng/RD4AD @6554076: dataset.py, test.py
        Convention("rd_official", 256, "mask>0.5", pro="per_image", fpr_limit=0.3),
        # gdwang08/STFPM @2598a5e: main.py, evaluate.py
        Convention("stfpm_official", 256, "mask>0 not antialiased", pro="rescaled", fpr_limit=0.3),
        # Hui-design/AAND @376c4e4: datasets/MvTec.py, test.py, whose call of RD's PRO is commented out
        Convention("aand_official", 256, "mask>0.5 nearest", pro="per_image", fpr_limit=0.3),
        # One choice at a time: these two differ in the masks' threshold, `pooled_256_half` and `rd_official` in PRO.
        Convention("pooled_256", 256, "mask>0", pro="pooled", fpr_limit=0.3),
        Convention("pooled_256_half", 256, "mask>0.5", pro="pooled", fpr_limit=0.3),
    )
}
