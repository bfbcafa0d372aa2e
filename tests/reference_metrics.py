"""The metrics straight from their definitions: every distinct score is a threshold. Slow; for tests alone."""

import numpy as np


def operating_points(maps, regions):
    """FPR and mean sPRO at every threshold, from "nothing" to "everything", by comparing every pixel anew.

    `regions` lists, for each image, (mask, saturation).
    """
    maps = np.stack(maps)
    free = np.ones(maps.shape, bool)
    for image, of_image in enumerate(regions):
        for mask, _ in of_image:
            free[image] &= ~mask
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        found = maps >= threshold
        overlap = [
            min(np.sum(found[image] & mask) / saturation, 1)
            for image, of_image in enumerate(regions)
            for mask, saturation in of_image
        ]
        points.append((np.sum(found & free) / np.sum(free), np.mean(overlap)))
    return np.array(points).T


def area_up_to(fpr, height, limit):
    """Trapezoidal area under a curve given by its corners, up to FPR `limit`, divided by it."""
    total = 0.0
    for left, right, low, high in zip(fpr[:-1], fpr[1:], height[:-1], height[1:], strict=True):
        if right > limit:
            if left < limit:
                at_limit = low + (high - low) * (limit - left) / (right - left)
                total += (limit - left) * (low + at_limit) / 2
            break
        total += (right - left) * (low + high) / 2
    return total / limit


def components(mask):
    """8-connected components of a mask by flood fill, each as a mask, with its area as saturation."""
    left, found = {tuple(place) for place in np.argwhere(mask)}, []
    while left:
        stack, component = [left.pop()], np.zeros(mask.shape, bool)
        while stack:
            row, column = stack.pop()
            component[row, column] = True
            near = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= near
            stack.extend(near)
        found.append((component, component.sum()))
    return found


def spro(maps, regions, limit):
    return area_up_to(*operating_points(maps, regions), limit)


def aupro(maps, masks, limit):
    return spro(maps, [components(mask) for mask in masks], limit)


def f1_max(labels, scores):
    labels, scores = np.asarray(labels, bool).ravel(), np.asarray(scores).ravel()
    return max(
        2 * np.sum(labels & (scores >= threshold)) / (np.sum(labels) + np.sum(scores >= threshold))
        for threshold in np.unique(scores)
    )


def thresholded_pro(maps, masks, thresholds):
    """FPR and mean PRO of what lies strictly above each threshold, pooled over the images."""
    regions = [[mask for mask, _ in components(mask)] for mask in masks]
    fpr, pro = [], []
    for threshold in thresholds:
        fpr.append(np.mean(maps[~masks] > threshold))
        pro.append(np.mean([np.mean(one[m] > threshold) for one, of in zip(maps, regions, strict=True) for m in of]))
    return np.array(fpr), np.array(pro)


def resized(image, size):
    """Bilinear with antialiasing, by definition: a triangle over two target pixels, or two source pixels if wider."""
    for axis in (0, 1):
        image = np.moveaxis(image, axis, 0).astype(np.float64)
        ratio = len(image) / size[axis]
        centres = (np.arange(size[axis]) + 0.5) * ratio
        distance = np.abs(np.arange(len(image)) + 0.5 - centres[:, None]) / max(ratio, 1)
        weights = np.maximum(1 - distance, 0)
        image = np.moveaxis((weights / weights.sum(1, keepdims=True)) @ image, 0, axis)
    return image


def bilinear(image, size):
    """Bilinear without antialiasing, pixel by pixel: each centre between the four source pixels next to it."""
    (old_height, old_width), values = image.shape, np.zeros(size)
    for row in range(size[0]):
        y = min(max((row + 0.5) * old_height / size[0] - 0.5, 0), old_height - 1)
        top, bottom = int(y), min(int(y) + 1, old_height - 1)
        for column in range(size[1]):
            x = min(max((column + 0.5) * old_width / size[1] - 0.5, 0), old_width - 1)
            left, right = int(x), min(int(x) + 1, old_width - 1)
            upper = image[top, left] * (1 - x % 1) + image[top, right] * (x % 1)
            lower = image[bottom, left] * (1 - x % 1) + image[bottom, right] * (x % 1)
            values[row, column] = upper * (1 - y % 1) + lower * (y % 1)
    return values


def nearest(mask, size):
    rows, columns = (
        [int((i + 0.5) * old / new) for i in range(new)] for old, new in zip(mask.shape, size, strict=True)
    )
    return np.array([[mask[row, column] for column in columns] for row in rows])


def rd_pro(one, mask):
    """PRO of one image as RD4AD's `compute_pro` reads: thresholds rise by 1/200 of the range, FPR is scaled."""
    regions, fpr, pro = [region for region, _ in components(mask)], [], []
    for threshold in np.arange(one.min(), one.max(), (one.max() - one.min()) / 200):
        found = one > threshold
        false = np.sum(found & ~mask) / np.sum(~mask)
        if false < 0.3:
            fpr.append(false)
            pro.append(np.mean([np.sum(found & region) / np.sum(region) for region in regions]))
    return np.trapezoid(pro[::-1], np.array(fpr[::-1]) / max(fpr))


def stfpm_pro(maps, masks):
    """PRO as STFPM's `evaluate.py` reads: 4000 thresholds fall from the maximum; both axes are rescaled to [0, 1]."""
    maps, masks, fpr, pro = np.stack(maps), np.stack(masks), [], []
    regions = [(image, region) for image, mask in enumerate(masks) for region, _ in components(mask)]
    for step in range(4000):
        found = maps > maps.max() - step * (maps.max() - maps.min()) / 4000
        false = np.sum(found & ~masks) / np.sum(~masks)
        if false > 0.3:
            break
        fpr.append(false)
        pro.append(np.mean([np.sum(found[image] & region) / np.sum(region) for image, region in regions]))
    fpr, pro = ((values - np.min(values)) / np.ptp(values) for values in (fpr, pro))
    return np.trapezoid(pro, fpr)
