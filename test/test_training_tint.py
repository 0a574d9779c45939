"""Episodes in another light."""

import numpy as np
import pytest

from starry_ros.errors import ConfigError
from starry_ros.training.scenes import PLAIN, View
from starry_ros.training.tint import gains, tint, tinted


def episodes(count: int):
    rng = np.random.default_rng(3)
    return [{"canvas_THWC": rng.integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)} for _ in range(count)]


def test_a_channel_is_multiplied_and_held_to_its_range():
    canvas = np.array([[[[0, 100, 200]]]], np.uint8)
    assert tint(canvas, np.array([1.2, 0.755, 1.4])).tolist() == [[[[0, 76, 255]]]]


def test_the_asked_share_of_episodes_is_tinted_and_the_rest_is_left_as_it_is():
    view, made = tinted(PLAIN, 0.3), episodes(400)
    changed = [not np.array_equal(view.compose(arrays), arrays["canvas_THWC"]) for arrays in made]
    assert 0.22 < np.mean(changed) < 0.38


def test_an_episode_keeps_its_light_and_always_gets_the_same():
    arrays = episodes(1)[0]
    arrays["canvas_THWC"][1] = arrays["canvas_THWC"][0]
    seen = tinted(PLAIN, 1.0).compose(arrays)
    assert np.array_equal(seen[0], seen[1])
    assert np.array_equal(seen, tinted(PLAIN, 1.0).compose(arrays))


def test_red_green_and_blue_stay_apart():
    colours = np.eye(3) * 200 + 30
    for seed in range(200):
        assert (np.argmax(tint(colours.astype(np.uint8)[None], gains(np.random.default_rng(seed)))[0], axis=1)
                == [0, 1, 2]).all()


def test_a_tinted_view_does_not_pass_for_the_plain_one_in_a_cache():
    assert tinted(PLAIN, 0.4).name not in (PLAIN.name, tinted(PLAIN, 0.5).name)
    assert tinted(PLAIN, 0.0) is PLAIN


@pytest.mark.parametrize(("view", "share"), [(PLAIN, 1.5), (View("rgbd", (), lambda arrays: arrays["x"]), 0.5)])
def test_what_cannot_be_tinted_is_refused(view, share):
    with pytest.raises(ConfigError, match="--tint"):
        tinted(view, share)
