import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pneumo_nb.train import losses

READINGS = ("label", "torch_mean", "eq7_literal", "focal", "sampler", "none")
logit = st.floats(-8, 8, width=32)
batch = st.lists(st.tuples(logit, logit, st.integers(0, 1)), min_size=1, max_size=8)
scale = st.floats(0.1, 20)


def tensors(rows):
    logits = torch.tensor([row[:2] for row in rows], dtype=torch.float64, requires_grad=True)
    return logits, torch.tensor([row[2] for row in rows])


@given(batch)
def test_equation_5_is_torchs_cross_entropy(rows):
    logits, labels = tensors(rows)
    p, q = functional.one_hot(labels, 2), logits.softmax(dim=1)
    assert torch.allclose(losses.cross_entropy(logits, labels), -(p * q.clamp_min(1e-300).log()).sum(dim=1))


@given(batch, scale)
def test_equation_7_as_printed_is_n_plus_1_times_cross_entropy_whatever_the_label(rows, n):
    logits, labels = tensors(rows)
    literal = losses.balanced_loss(logits, labels, "eq7_literal", n)
    plain = losses.balanced_loss(logits, labels, "none", n)
    assert torch.allclose(literal, (n + 1) * plain)
    of_literal, of_plain = (torch.autograd.grad(loss, logits)[0] for loss in (literal, plain))
    assert torch.allclose(of_literal, (n + 1) * of_plain)


@given(batch, scale)
def test_by_label_each_positive_weighs_n(rows, n):
    logits, labels = tensors(rows)
    expected = sum(
        (n if y else 1.0) * ce.item() for ce, y in zip(losses.cross_entropy(logits, labels), labels, strict=True)
    )
    assert losses.balanced_loss(logits, labels, "label", n).item() == pytest.approx(expected / len(rows))


@given(batch, scale)
def test_torch_mean_is_torchs_own_weighted_mean(rows, n):
    logits, labels = tensors(rows)
    weight = torch.tensor([1.0, n], dtype=torch.float64)
    theirs = functional.cross_entropy(logits, labels, weight=weight)
    assert torch.allclose(losses.balanced_loss(logits, labels, "torch_mean", n), theirs)


@given(batch)
def test_at_n_1_every_reading_but_focal_is_plain_up_to_a_factor(rows):
    logits, labels = tensors(rows)
    plain = losses.balanced_loss(logits, labels, "none", 1)
    for reading, factor in (("label", 1), ("torch_mean", 1), ("eq7_literal", 2), ("sampler", 1)):
        assert torch.allclose(losses.balanced_loss(logits, labels, reading, 1), factor * plain)


def test_focal_loss_weighs_easy_samples_down():
    logits, labels = torch.tensor([[0.0, 4.0], [0.0, 0.0]]), torch.tensor([1, 1])
    easy, even = (losses.balanced_loss(logits[[i]], labels[[i]], "focal", 1) for i in (0, 1))
    assert float(even) == pytest.approx(0.25 * 0.6931, abs=1e-4)
    assert float(easy) == pytest.approx(float(losses.cross_entropy(logits, labels)[0]) * (1 - 0.98201) ** 2, rel=1e-2)


@pytest.mark.parametrize(
    ("size", "ratio"), [(1, 1.0), (2, 1.77), (4, 2.78), (8, 3.72), (16, 4.34), (32, 4.68), (566, 5.0)]
)
def test_effective_ratio_of_torch_mean_by_batch_size(size, ratio):
    assert losses.effective_ratio("torch_mean", 5, size, 114, 452) == pytest.approx(ratio, abs=0.006)


def test_effective_ratio_agrees_with_gradients_over_random_batches():
    generator = torch.Generator().manual_seed(0)
    moved = {0: [], 1: []}
    for _ in range(1500):
        labels = (torch.rand(4, generator=generator) < 0.2).long()
        logits = torch.zeros(4, 2, requires_grad=True)
        losses.balanced_loss(logits, labels, "torch_mean", 5.0).backward()
        for label, gradient in zip(labels.tolist(), logits.grad.abs().sum(dim=1).tolist(), strict=True):
            moved[label].append(gradient)
    measured = (sum(moved[1]) / len(moved[1])) / (sum(moved[0]) / len(moved[0]))
    assert measured == pytest.approx(losses.effective_ratio("torch_mean", 5.0, 4, 2000, 8000), rel=0.05)


@pytest.mark.parametrize(
    ("reading", "ratio"), [("label", 5), ("sampler", 5), ("eq7_literal", 1), ("focal", 1), ("none", 1)]
)
def test_effective_ratio_of_the_other_readings(reading, ratio):
    assert losses.effective_ratio(reading, 5, 2, 114, 452) == ratio


def test_an_unknown_reading_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no reading 'balanced'; there is label, .* eq7_literal"):
        losses.balanced_loss(torch.zeros(1, 2), torch.tensor([0]), "balanced", 5)
    assert all(losses.balanced_loss(torch.zeros(1, 2), torch.tensor([0]), name, 5) > 0 for name in READINGS)
