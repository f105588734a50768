import time

import numpy as np
import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pneumo_nb import metrics, paths
from pneumo_nb.settings import TrainSettings
from pneumo_nb.train import checkpoints, dataset, loop, models

CPU = torch.device("cpu")
RESNET34 = models.build
TINY = {"image_size": 32, "channels": 1, "epochs": 2, "batch_size": 4, "learning_rate": 1e-3}


def fit(data, checkpoint=None, **settings):
    return loop.fit(TrainSettings.of(**(TINY | settings)), data, CPU, checkpoint, progress=False)


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    """These tests are about the loop, not the network; ResNet34 has a test of its own below."""
    monkeypatch.setattr(models, "build", toy.build)


@pytest.fixture
def data(home):
    return toy.load(toy.prepared(validation=6), 32)


def test_the_same_settings_twice_give_the_same_bytes_and_another_seed_does_not(data):
    one, same, other = fit(data), fit(data), fit(data, seed=1)
    assert all(torch.equal(one.weights[name], same.weights[name]) for name in one.weights)
    assert one.history.equals(same.history) and (one.probabilities == same.probabilities).all()
    assert (one.probabilities != other.probabilities).any()


def test_a_bar_is_drawn_every_few_seconds_however_short_the_steps_are(data, monkeypatch, capsys):
    """Each drawing is three messages of a notebook's kernel; nbval loses those of a long cell beyond some 2000."""
    plain, steps = loop.losses.balanced_loss, []
    monkeypatch.setattr(loop.losses, "balanced_loss", lambda *given: steps.append(time.sleep(0.11)) or plain(*given))
    start = time.monotonic()
    loop.fit(TrainSettings.of(**(TINY | {"batch_size": 2})), data, CPU)
    most = 5 + (time.monotonic() - start) / 2  # at the beginning and the end, after each epoch, and between
    assert 1 <= capsys.readouterr().err.count("%|") <= most < len(steps)


def test_the_global_random_state_does_not_matter(data):
    torch.manual_seed(1)
    np.random.seed(1)
    one = fit(data)
    torch.manual_seed(2)
    assert (one.probabilities == fit(data).probabilities).all()


@pytest.mark.parametrize("wanted", [True, False])
def test_algorithms_are_fixed_or_measured_while_training_and_as_before_afterwards(data, monkeypatch, wanted):
    def now():
        return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark

    before, met, plain = now(), set(), loop.losses.balanced_loss
    monkeypatch.setattr(loop.losses, "balanced_loss", lambda *given: met.add(now()) or plain(*given))
    fit(data, deterministic=wanted)
    assert met == {(wanted, not wanted)} and now() == before == (False, False)


def test_statistics_of_the_training_set_are_those_of_the_final_weights_and_change_no_weight(data):
    running, settled = fit(data, norm_statistics="running"), fit(data)
    differing = {name for name, value in running.weights.items() if not torch.equal(value, settled.weights[name])}
    assert differing and all("running" in name or "num_batches" in name for name in differing)
    columns = [column for column in running.history if column.startswith("train_")]
    assert running.history[columns].equals(settled.history[columns])  # only what is evaluated differs
    net, seen = toy.build("resnet34", 1), []
    net.load_state_dict(settled.weights)
    norm = next(module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d))
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].transpose(0, 1).flatten(1)))
    loop.take_statistics(TrainSettings.of(**TINY), net, dataset.Feed(data, CPU, 1, "none"), data.part("train"))
    assert torch.equal(norm.running_mean, mean) and torch.equal(norm.running_var, variance)  # the same a second time
    assert sum(one.shape[1] for one in seen) == seen[0].shape[1] // TINY["batch_size"] * len(data.part("train"))
    assert torch.allclose(mean, torch.stack([one.mean(1) for one in seen]).mean(0), atol=1e-5)
    assert torch.allclose(variance, torch.stack([one.var(1) for one in seen]).mean(0), rtol=1e-4)


def test_statistics_are_of_batches_that_mix_the_classes_though_the_files_are_sorted_by_class(home):
    data, met = toy.load(toy.prepared(images=60), 32), []
    by_class = np.array(sorted(data.part("train"), key=data.labels.tolist().__getitem__))
    feed = dataset.Feed(data, CPU, 1, "none")
    images = feed.images
    feed.images = lambda positions: met.append(data.labels[positions].float().mean().item()) or images(positions)
    loop.take_statistics(TrainSettings.of(**TINY), toy.build("resnet34", 1), feed, by_class)
    assert len(met) == len(by_class) // TINY["batch_size"] and sum(0 < share < 1 for share in met) > len(met) / 2


def test_history_has_a_row_for_each_epoch_and_counts_that_add_up(data):
    history = fit(data, epochs=3).history
    assert history["epoch"].tolist() == [1, 2, 3]
    for split in ("train", "validation", "test"):
        counts = history[[f"{split}_{name}" for name in ("tp", "fp", "fn", "tn")]].sum(axis=1)
        assert (counts == len(data.part(split))).all()
    assert np.isfinite(history["train_loss"]).all() and np.isfinite(history["test_loss"]).all()


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_network_learns_the_bright_square_and_is_evaluated_in_float32(home, precision):
    data = toy.load(toy.prepared(images=60), 32)
    trained = fit(data, epochs=20, learning_rate=1e-2, precision=precision)
    on_test = data.part("test")
    assert metrics.auc(data.labels[on_test].tolist(), trained.probabilities[on_test].tolist()) >= 0.95
    assert all(value.dtype != torch.bfloat16 for value in trained.weights.values())
    net = toy.build("resnet34", 1)
    net.load_state_dict(trained.weights)
    feed = dataset.Feed(data, CPU, 1, "none")
    assert (loop.predict(net, feed, np.arange(len(data.labels))) == trained.probabilities).all()


@pytest.mark.slow
def test_resnet34_trains_to_the_same_bytes_twice(data, monkeypatch):
    monkeypatch.setattr(models, "build", RESNET34)
    one, same = fit(data, epochs=1, batch_size=10), fit(data, epochs=1, batch_size=10)
    assert len(one.weights) > 200 and all(torch.equal(one.weights[name], same.weights[name]) for name in one.weights)


def test_an_interrupted_run_ends_at_the_same_bytes(data, tmp_path, monkeypatch):
    undisturbed = fit(data, epochs=3)
    checkpoint, whole = tmp_path / "checkpoint.pt", paths.whole
    saved = []

    def stop_after_the_first_epoch(path):
        if saved:
            raise KeyboardInterrupt
        saved.append(path)
        return whole(path)

    with monkeypatch.context() as stopping, pytest.raises(KeyboardInterrupt):
        stopping.setattr(paths, "whole", stop_after_the_first_epoch)
        fit(data, checkpoint, epochs=3)
    resumed = fit(data, checkpoint, epochs=3)
    assert all(torch.equal(undisturbed.weights[name], resumed.weights[name]) for name in undisturbed.weights)
    assert undisturbed.history.equals(resumed.history)


def test_a_setting_says_how_often_checkpoints_are_saved_and_changes_nothing_else(data, tmp_path, monkeypatch):
    saved, save = [], checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda *given: saved.append(len(given[2]["history"])) or save(*given))
    every = fit(data, tmp_path / "checkpoint.pt", epochs=5)
    assert saved == [1, 2, 3, 4, 5]
    saved.clear()
    second = fit(data, tmp_path / "second.pt", epochs=5, checkpoint_every=2)
    assert saved == [2, 4, 5] and every.history.equals(second.history)
    assert TrainSettings.of(checkpoint_every=2).digest() == TrainSettings().digest()
    assert TrainSettings.of(checkpoint_every=2).varied(seed=1).checkpoint_every == 2


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_best_epoch_is_the_first_with_the_highest_accuracy(data, split):
    trained = fit(data, epochs=4, epoch_reported=f"best_{split}")
    accuracy = trained.history[f"{split}_accuracy"]
    assert trained.epoch_reported == 1 + int(accuracy.to_numpy().argmax())
    called = trained.probabilities[data.part(split)] >= 0.5
    assert (called == data.labels.numpy()[data.part(split)].astype(bool)).mean() == pytest.approx(accuracy.max())


def test_a_threshold_rule_is_applied_to_the_validation_part(data):
    trained = fit(data, threshold="recall90")
    chosen_on = data.part("validation")
    called = trained.probabilities[chosen_on] >= trained.threshold
    assert called[data.labels.numpy()[chosen_on] == 1].mean() >= 0.9


def test_the_literal_reading_of_equation_7_trains_as_no_weighting_does(data):
    # one step over the whole set: Adam divides the common factor n + 1 away, but not a weight by label
    step = {"epochs": 1, "batch_size": 500, "scale_factor": 5}
    label, literal, plain = (fit(data, loss=loss, **step).probabilities for loss in ("label", "eq7_literal", "none"))
    assert abs(literal - plain).max() < 0.2 * abs(label - plain).max()


@given(st.integers(2, 60), st.integers(1, 70), st.integers(0, 5), st.integers(1, 9))
def test_an_epoch_sees_every_image_once_and_never_a_lone_one(images, batch_size, seed, epoch):
    settings = TrainSettings.of(batch_size=batch_size, seed=seed)
    cut = loop.batches(np.arange(images) % 2, settings, epoch)
    assert sorted(np.concatenate(cut).tolist()) == list(range(images))
    assert batch_size == 1 or min(len(batch) for batch in cut) >= 2
    assert max(len(batch) for batch in cut) <= batch_size + 1
    again = loop.batches(np.arange(images) % 2, settings, epoch)
    assert all((a == b).all() for a, b in zip(cut, again, strict=True))


def test_epochs_are_shuffled_differently():
    one, two = (np.concatenate(loop.batches(np.zeros(50), TrainSettings(), epoch)) for epoch in (1, 2))
    assert (one != two).any()


def test_the_sampler_draws_positives_n_times_as_often():
    labels = np.array([1] * 20 + [0] * 80)
    settings = TrainSettings.of(loss="sampler", scale_factor=4)
    drawn = np.concatenate([np.concatenate(loop.batches(labels, settings, epoch)) for epoch in range(200)])
    assert labels[drawn].mean() == pytest.approx(0.5, abs=0.02)


def test_one_class_only_is_refused_by_name(data):
    data.labels[data.part("test")] = 0
    with pytest.raises(ValueError, match=r"testing set of dataset 'toy' has 0 positive and 8 negative"):
        fit(data)


def test_what_needs_a_validation_part_is_refused_without_one(home):
    data = toy.load(toy.prepared())
    with pytest.raises(ValueError, match="best_validation needs a validation part: prepare 'toy' with validation_fr"):
        fit(data, epoch_reported="best_validation")
    with pytest.raises(ValueError, match=r"validation part, .* of dataset 'toy' has 0 positive and 0 negative"):
        fit(data, threshold="youden")


def test_a_threshold_rule_is_refused_before_training_where_the_validation_part_has_one_class(data, monkeypatch):
    data.labels[data.part("validation")] = 0
    monkeypatch.setattr(loop, "_epoch", lambda *_: pytest.fail("it trains"))
    with pytest.raises(ValueError, match=r"validation part, on which threshold = 'youden' .* 0 positive and 6 nega"):
        fit(data, threshold="youden")


def test_a_loss_that_is_not_a_number_is_named_with_epoch_and_step(data):
    with pytest.raises(FloatingPointError, match=r"epoch 1, step \d+: try a learning rate below"):
        fit(data, learning_rate=1e38)


def test_the_epochs_before_the_loss_stopped_being_a_number_are_kept(data, tmp_path, monkeypatch):
    checkpoint, loss, steps = tmp_path / "checkpoint.pt", loop.losses.balanced_loss, []

    def breaks_in_the_second_epoch(logits, *others):
        steps.append(logits.requires_grad)
        return loss(logits, *others) * (float("nan") if sum(steps) == 5 and logits.requires_grad else 1)

    monkeypatch.setattr(loop.losses, "balanced_loss", breaks_in_the_second_epoch)
    with pytest.raises(FloatingPointError, match="epoch 2, step 2: try a learning rate below"):
        fit(data, checkpoint)
    assert len(torch.load(checkpoint, weights_only=True)["done"]["history"]) == 1


def test_a_loss_that_is_not_a_number_on_the_testing_set_is_named(data, monkeypatch):
    loss = loop.losses.balanced_loss
    monkeypatch.setattr(
        loop.losses, "balanced_loss", lambda logits, *o: loss(logits, *o) * (1 if logits.requires_grad else np.inf)
    )
    with pytest.raises(FloatingPointError, match="not a number on the validation part after epoch 1: try a learning"):
        fit(data)


def test_one_image_a_batch_is_refused_where_it_leaves_nothing_to_normalise(data, monkeypatch):
    monkeypatch.setattr(models, "build", RESNET34)
    with pytest.raises(ValueError, match=r"resnet34 cannot train at image_size = 32 and batch_size = 1: Expected more"):
        fit(data, batch_size=1)


def test_a_batch_larger_than_the_set_and_a_batch_of_one_train(data):
    assert len(fit(data, batch_size=500, epochs=1).history) == 1
    larger = toy.load(image_size=64)
    assert len(fit(larger, batch_size=1, image_size=64, norm_layer="group", epochs=1).history) == 1


def test_initial_weights_come_from_a_file_and_a_wrong_file_is_named(data, tmp_path):
    net = toy.build("resnet34", 1, seed=9)
    right, wrong = tmp_path / "right.safetensors", tmp_path / "wrong.safetensors"
    save_file(net.state_dict(), right)
    save_file({"other": torch.zeros(2)}, wrong)
    from_file = fit(data, initial_weights=str(right), learning_rate=1e-30)
    assert torch.allclose(from_file.weights["0.weight"], net[0].weight)
    with pytest.raises(ValueError, match=r"'wrong.safetensors' does not fit resnet34"):
        fit(data, initial_weights=str(wrong))
    with pytest.raises(ValueError, match=r"'none.safetensors' is not a file"):
        fit(data, initial_weights=str(tmp_path / "none.safetensors"))
