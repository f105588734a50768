import numpy as np
import pytest
import torch
import toy
from captum.attr import LayerGradCam
from torch import nn
from torch.nn import functional

from pneumo_nb.results import interpret
from pneumo_nb.train import dataset, models

NETWORKS = {
    "DenseNet53, 3x3 stem": {"model": "densenet", "channels": 1},
    "DenseNet53, 7x7 stem": {"model": "densenet", "channels": 1, "stem": "7x7"},
    "DenseNet40, basic": {"model": "densenet", "depth": 40, "blocks": 3, "bottleneck": False, "channels": 3},
    "ResNet34": {"model": "resnet34", "channels": 1},
}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS.keys())
def net(request):
    return models.build(**request.param, seed=1).train()


def radiographs(net, size=64, images=2):
    channels = next(module for module in net.modules() if isinstance(module, nn.Conv2d)).in_channels
    return torch.randn(images, channels, size, size, generator=torch.Generator().manual_seed(0))


def hooks(net):
    return sum(len(module._forward_hooks) + len(module._backward_hooks) for module in net.modules())


class Corner(nn.Module):
    """Positive as far as the upper left quarter of the radiograph is bright."""

    def forward(self, x):
        bright = x[:, 0, :16, :16].mean(dim=(1, 2))
        return torch.stack([-5 * bright, 5 * bright], dim=1)


def test_every_layer_that_is_offered_speaks_in_the_forward_pass(net):
    names = interpret.layers(net)
    x = radiographs(net)
    shapes = [interpret.feature_maps(net, x, name).shape for name in names]
    assert all(shape[0] == 2 for shape in shapes)
    sides = [shape[-1] for shape in shapes]
    assert sides == sorted(sides, reverse=True) and sides[-1] < sides[0]


def test_the_layers_are_the_first_convolution_and_the_blocks():
    dense, residual = models.build("densenet", stem="7x7"), models.build("resnet34")
    assert interpret.layers(dense) == ["stem.0", *(f"features.dense{block}" for block in (1, 2, 3, 4))]
    assert interpret.layers(residual) == ["conv1", "layer1", "layer2", "layer3", "layer4"]


def test_the_first_layers_maps_are_its_convolution(net):
    x, first = radiographs(net), interpret.layers(net)[0]
    layer = net.get_submodule(first)
    by_hand = functional.conv2d(x, layer.weight, stride=layer.stride, padding=layer.padding)
    assert interpret.feature_maps(net, x, first) == pytest.approx(by_hand.detach().numpy(), abs=1e-5)


def test_a_dense_blocks_maps_keep_what_came_before():
    net = models.build("densenet", channels=1).eval()
    x = radiographs(net)
    maps = interpret.feature_maps(net, x, "features.dense1")
    assert maps.shape == (2, 24 + 6 * 12, 64, 64)
    assert (maps[:, :24] == interpret.feature_maps(net, x, "stem")).all()  # Eq. 6: x_0 comes first


def test_the_hook_is_gone_however_the_block_ends(net):
    first = interpret.layers(net)[0]
    with interpret.recorded(net, first) as outputs:
        assert hooks(net) == 1
        net(radiographs(net))
        net(radiographs(net))
    assert len(outputs) == 2 and hooks(net) == 0
    with pytest.raises(ZeroDivisionError), interpret.recorded(net, first):
        raise ZeroDivisionError
    assert hooks(net) == 0
    net(radiographs(net))
    assert len(outputs) == 2


@pytest.mark.parametrize("name", ["dense9", "", "features.dense1.99"])
def test_a_layer_that_is_not_there_is_refused_with_those_that_are(name):
    net = models.build("densenet")
    with pytest.raises(ValueError, match=r"no layer '.*'; it has stem, features\.dense1, .*features\.dense4$"):
        interpret.feature_maps(net, torch.zeros(1, 3, 32, 32), name)
    assert hooks(net) == 0


def test_grad_cam_is_captums(net):
    x, last = radiographs(net, images=3), interpret.layers(net)[-1]
    ours = interpret.grad_cam(net, x, last)
    captums = LayerGradCam(net, net.get_submodule(last)[-1]).attribute(x, target=1, relu_attributions=True)
    assert ours.shape == (3, 1, *captums.shape[2:]) and ours.max() > 0
    assert ours == pytest.approx(captums.detach().numpy(), abs=1e-5)


def test_what_lies_behind_a_layer_is_not_computed_for_its_maps():
    net = models.build("densenet", channels=1)
    with interpret.recorded(net, "features.dense4") as later:
        interpret.feature_maps(net, radiographs(net), "stem")
    assert later == []


def test_maps_come_radiograph_by_radiograph(home):
    data = toy.load(toy.prepared())
    feed, asked = dataset.Feed(data, torch.device("cpu"), 1, "none"), []

    def make(x):
        asked.append(len(x))
        return x.numpy()

    found = list(interpret.each(make, feed, np.array([3, 5, 4, 9, 8]), at_once=2))
    assert asked == [2, 2, 1]
    for maps, place in zip(found, (3, 5, 4, 9, 8), strict=True):
        assert (maps == feed.images(np.array([place]))[0].numpy()).all()


def test_grad_cam_leaves_nothing_behind(net):
    x = radiographs(net)
    interpret.grad_cam(net, x, interpret.layers(net)[-1])
    assert (
        torch.is_grad_enabled()
        and not x.requires_grad
        and all(weight.grad is None for weight in net.parameters())
        and hooks(net) == 0
    )


def test_grad_cam_works_where_gradients_are_switched_off(net):
    x, last = radiographs(net), interpret.layers(net)[-1]
    with torch.no_grad():
        assert (interpret.grad_cam(net, x, last) == interpret.grad_cam(net, x, last)).all()


def test_deletion_goes_from_the_radiograph_to_the_blur_and_insertion_back():
    net = models.build("densenet", channels=1, stem="7x7", seed=1)
    x = radiographs(net, images=1)
    deleted, inserted = interpret.deletion_and_insertion(net, x, np.arange(64.0 * 64).reshape(64, 64), steps=4)
    assert deleted.shape == inserted.shape == (5,)
    assert deleted[0] == pytest.approx(inserted[-1], abs=1e-6) and deleted[-1] == pytest.approx(inserted[0], abs=1e-6)
    assert deleted[0] == pytest.approx(net.eval()(x).softmax(dim=1)[0, 1].item(), abs=1e-6)


def test_deletion_falls_and_insertion_rises_early_only_where_the_map_is_right():
    x = torch.full((1, 1, 32, 32), -1.0)
    x[..., :16, :16] = 1.0
    right, wrong = x[0, 0].numpy(), -x[0, 0].numpy()
    (falls, rises), (late, later) = (interpret.deletion_and_insertion(Corner(), x, map_) for map_ in (right, wrong))
    assert falls.mean() < late.mean() and rises.mean() > later.mean()


def test_a_map_of_another_size_than_the_radiograph_is_refused():
    with pytest.raises(ValueError, match=r"the map is \(3, 3\), the radiograph \(32, 32\)"):
        interpret.deletion_and_insertion(Corner(), torch.zeros(1, 1, 32, 32), np.zeros((3, 3)))
