import pytest
import torch

from pneumo_nb import models


def counted(rows):
    return [row for row in rows if "downsample" not in row["name"]]


def test_resnet34_has_34_layers_on_its_main_road_and_three_shortcuts():
    rows = models.layers(models.build("resnet34"), 672)
    assert len(counted(rows)) == 34 and len(rows) == 37
    assert [row["kind"] for row in rows].count("linear") == 1


@pytest.mark.parametrize(("channels", "parameters"), [(3, 21_285_698), (1, 21_279_426)])
def test_parameters_of_resnet34_with_two_outputs(channels, parameters):
    assert models.parameters(models.build("resnet34", channels)) == parameters


def test_sizes_follow_equation_2_at_672():
    rows = {row["name"]: row for row in models.layers(models.build("resnet34"), 672)}
    sizes = [
        rows[name]["output"]
        for name in ("conv1", "layer1.2.conv2", "layer2.3.conv2", "layer3.5.conv2", "layer4.2.conv2")
    ]
    assert sizes == [(64, 336, 336), (64, 168, 168), (128, 84, 84), (256, 42, 42), (512, 21, 21)]
    assert rows["conv1"]["kernel"] == 7 and rows["conv1"]["stride"] == 2 and rows["fc"]["output"] == (2,)


def test_the_layer_table_leaves_the_network_as_it_was():
    net = models.build("resnet34", channels=1)
    models.layers(net, 64, channels=1)
    assert net(torch.zeros(1, 1, 64, 64)).shape == (1, 2)
    assert not any(module._forward_hooks for module in net.modules())


def test_the_seed_alone_decides_the_weights_and_the_global_state_is_kept():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, same, other = (models.build("resnet34", 1, seed=seed).fc.weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_group_normalisation_replaces_every_batch_normalisation():
    kinds = {type(module).__name__ for module in models.build("resnet34", norm_layer="group").modules()}
    assert "GroupNorm" in kinds and "BatchNorm2d" not in kinds


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'resnet35'.*resnet34"):
        models.build("resnet35")
