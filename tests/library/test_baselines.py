from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial.distance import cdist

from rkd_pipeline.detectors.baselines import nearest_colours, nearest_features, pixel_deviation, teacher_patches
from rkd_pipeline.models.teacher import Teacher


def test_pixel_deviation_peaks_where_a_constant_place_changed() -> None:
    train = np.random.default_rng(0).integers(90, 110, (30, 32, 32, 3), dtype=np.uint8)
    test = train[:2].copy()
    test[1, 20:24, 8:12] = 200
    maps = pixel_deviation(train, test)
    assert maps.shape == (2, 32, 32)
    assert np.hypot(*(np.array(np.unravel_index(maps[1].argmax(), (32, 32))) - [21.5, 9.5])) < 2
    assert maps[1].max() > 2 * maps[0].max()


def test_nearest_colours_are_the_distances_of_a_direct_search() -> None:
    """Images of one colour each: every patch is one point, and its distance is that between two colours."""
    colours = np.random.default_rng(1).integers(0, 256, (7, 3), dtype=np.uint8)
    train, test = (np.broadcast_to(c[:, None, None], (len(c), 32, 32, 3)) for c in (colours[:4], colours[4:]))
    maps = nearest_colours(train, test)
    expected = cdist(colours[4:] / 255, colours[:4] / 255).min(1) * np.sqrt(16)  # 4 by 4 averaged pixels
    # Distances come from float32 products, which cancel.
    np.testing.assert_allclose(maps, np.broadcast_to(expected[:, None, None], maps.shape), rtol=1e-3)


def test_training_images_are_at_distance_0_and_scale_does_not_matter(
    images: np.ndarray, random_teacher: Callable[[str], Teacher]
) -> None:
    patches = teacher_patches(random_teacher("resnet18"), images)
    assert patches.shape == (12, 8, 8, 128 + 256)
    train, test = patches[:8], patches[8:]
    maps = nearest_features(train, test, 64, channels=(128, 256), bank=10**6)
    assert maps.shape == (4, 64, 64)
    assert maps.min() > 0.01
    assert nearest_features(train, train[:2], 64, channels=(128, 256), bank=10**6).max() < 0.01
    scaled = (
        torch.cat([train[..., :128] * 5, train[..., 128:] / 3], -1),
        torch.cat([test[..., :128] * 5, test[..., 128:] / 3], -1),
    )
    np.testing.assert_allclose(
        nearest_features(*scaled, 64, channels=(128, 256), bank=10**6), maps, rtol=1e-3, atol=1e-4
    )
