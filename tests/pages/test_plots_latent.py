"""Pictures of latent circles and planes: what is drawn where, in which colour."""

import numpy as np
import pytest

from nrae_lib.pages import plots

pytest.importorskip("matplotlib")


def circle(count=36):
    angle = np.arange(count) * 360 / count
    return {"code": np.stack([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))], 1), "angle": angle}


def test_colours_of_angles_close_to_a_circle_and_read_on_white_and_on_dark():
    assert plots.CYCLIC_COLOURS[0] == plots.CYCLIC_COLOURS[-1]
    assert len(set(plots.CYCLIC_COLOURS)) == len(plots.CYCLIC_COLOURS) - 1
    assert all(0.12 <= plots.relative_luminance(colour) <= 0.31 for colour in plots.CYCLIC_COLOURS)


def test_codes_lie_on_the_circle_and_on_a_spiral_outside_it():
    panel = circle()
    axis = plots.code_circles({"ae": panel}).axes[0]
    ring, spiral = (collection.get_offsets().data for collection in axis.collections)
    assert np.allclose(ring, panel["code"])
    assert np.allclose(np.linalg.norm(spiral, axis=1), np.linspace(1.3, 2.0, 36))
    assert np.allclose(spiral / np.linalg.norm(spiral, axis=1, keepdims=True), panel["code"])
    assert axis.collections[0].get_array().tolist() == panel["angle"].tolist()
    assert axis.get_title() == "AE"


def test_latent_grids_place_images_and_make_those_away_from_data_pale():
    grid = np.arange(6, dtype=np.uint8).repeat(4).reshape(2, 3, 1, 2, 2) * 40
    near = np.array([[True, True, False], [True, False, True]])
    picture = plots.latent_grids({"nrae_q": {"grid": grid, "near": near}}).axes[0].images[0].get_array()
    assert picture.shape == (5, 8, 4)
    assert picture[0, 3].tolist() == [40, 40, 40, 255] and picture[4, 7].tolist() == [200, 200, 200, 255]
    assert picture[1, 7].tolist() == [80, 80, 80, 85] and picture[3, 4].tolist() == [160, 160, 160, 85]
    assert picture[2].sum() == 0  # the line between the rows
    with pytest.raises(ValueError, match="near has shape"):
        plots.latent_grids({"nrae_q": {"grid": grid, "near": near.T}})


def test_curvature_fields_share_one_symmetric_scale_with_flat_in_the_middle():
    low, high = np.full((4, 4), 0.02), np.full((4, 4), -3.0)
    low[0, 0] = np.nan
    code = np.zeros((5, 2))
    figure = plots.curvature_fields({"ae": {"field": low, "code": code}, "nrae_l": {"field": high, "code": code}})
    images = [axis.images[0] for axis in figure.axes[:2]]
    assert {image.norm.vmax for image in images} == {10.0} and {image.norm.vmin for image in images} == {-10.0}
    assert images[0].norm(0.0) == pytest.approx(0.5)
    assert images[0].norm(0.02) > 0.5 > images[1].norm(-3.0)
    assert np.ma.getmaskarray(images[0].get_array())[0, 0]
    left, right, bottom, top = images[0].get_extent()
    assert (left, right) == (bottom, top) == pytest.approx((-2 - 2 / 3, 2 + 2 / 3))  # pixels are centred on the grid


def test_code_planes_frame_the_grid():
    axis = plots.code_planes({"ae": circle()}).axes[0]
    (frame,) = axis.patches
    assert frame.get_bbox().bounds == (-2, -2, 4, 4)


@pytest.mark.parametrize("draw", [plots.code_circles, plots.code_planes])
def test_panels_that_do_not_fit_are_refused(draw):
    with pytest.raises(ValueError, match="angle has 3 values, but code has 36 points"):
        draw({"ae": circle() | {"angle": np.zeros(3)}})
    with pytest.raises(ValueError, match="nothing to draw"):
        draw({})
