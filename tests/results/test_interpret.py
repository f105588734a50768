import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn
from torch.nn import functional

from pneumo_nb.results import interpret
from pneumo_nb.train import models

NETWORKS = {
    "DenseNet53, 3x3 stem": {"model": "densenet", "channels": 1},
    "DenseNet53, 7x7 stem": {"model": "densenet", "channels": 1, "stem": "7x7"},
    "DenseNet40, basic": {"model": "densenet", "depth": 40, "blocks": 3, "bottleneck": False, "channels": 3},
    "ResNet34": {"model": "resnet34", "channels": 1},
}


@pytest.fixture(scope="module", params=NETWORKS.values(), ids=NETWORKS.keys())
def built(request):
    return models.build(**request.param, seed=1)


@pytest.fixture
def net(built):
    return built.train()


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
    assert np.allclose(interpret.feature_maps(net, x, first), by_hand.detach().numpy(), rtol=0, atol=1e-5)


def test_a_dense_blocks_maps_keep_what_came_before():
    net = models.build("densenet", channels=1).eval()
    x = radiographs(net)
    maps = interpret.feature_maps(net, x, "features.dense1")
    assert maps.shape == (2, 24 + 6 * 12, 64, 64)
    assert (maps[:, :24] == interpret.feature_maps(net, x, "stem")).all()  # Eq. 6: x_0 comes first


def test_the_hook_is_gone_however_the_block_ends(net):
    first = interpret.layers(net)[0]
    net.eval()  # the network is shared: no statistics may move
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
    assert np.allclose(ours, captums.detach().numpy(), rtol=0, atol=1e-5)


def test_what_lies_behind_a_layer_is_not_computed_for_its_maps():
    net = models.build("densenet", channels=1)
    with interpret.recorded(net, "features.dense4") as later:
        interpret.feature_maps(net, radiographs(net), "stem")
    assert later == []


def test_grad_cam_leaves_nothing_behind_and_works_where_gradients_are_switched_off(net):
    x, last = radiographs(net), interpret.layers(net)[-1]
    once = interpret.grad_cam(net, x, last)
    assert torch.is_grad_enabled() and not x.requires_grad and hooks(net) == 0
    assert all(weight.grad is None for weight in net.parameters())
    with torch.no_grad():
        assert (interpret.grad_cam(net, x, last) == once).all()


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
