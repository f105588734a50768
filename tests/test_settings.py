import pytest

from pneumo_nb import paper, paths, settings
from pneumo_nb.settings import PrepareSettings, TrainSettings


def test_the_defaults_are_the_papers_settings():
    defaults = TrainSettings().model_dump()
    assert {name: defaults[name] for name in paper.SETTINGS} == paper.SETTINGS
    assert defaults["scale_factor"] == paper.SCALE_FACTORS[1] and defaults["model"] == "resnet34"


def test_text_from_papermill_is_parsed():
    parsed = TrainSettings.of(learning_rate="5e-5", deterministic="true", epochs="3", threshold="0.2")
    assert (parsed.learning_rate, parsed.deterministic, parsed.epochs, parsed.threshold) == (5e-5, True, 3, 0.2)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"lerning_rate": 1}, ["'lerning_rate'", "learning_rate"]),
        ({"epochs": 0}, ["epochs", "greater than or equal to 1"]),
        ({"loss": "balanced"}, ["loss", "'balanced'", "eq7_literal"]),
        ({"epochs": "many"}, ["epochs", "'many'"]),
        ({"learning_rate": "nan"}, ["learning_rate"]),
        ({"scale_factor": "inf"}, ["scale_factor"]),
    ],
)
def test_a_wrong_name_or_value_is_named_in_one_line(values, names):
    with pytest.raises(ValueError) as caught:
        TrainSettings.of(**values)
    message = str(caught.value)
    assert "\n" not in message and all(name in message for name in names)


def test_a_depth_must_fit_its_blocks():
    with pytest.raises(ValueError, match="depth = 40 does not fit 4 dense blocks with bottleneck: 37 and 45 do"):
        TrainSettings.of(depth=40)
    assert TrainSettings.of(depth=40, blocks=3).varied(bottleneck=False).depth == 40


def test_sixteen_bits_need_png():
    with pytest.raises(ValueError, match="png"):
        PrepareSettings.of(bits=16)
    assert PrepareSettings.of(bits=16, format="png").bits == 16


@pytest.mark.parametrize("text", ["16", "8"])
def test_a_choice_between_numbers_is_read_from_text(text):
    assert PrepareSettings.of(bits=text, format="png") == PrepareSettings.of(bits=int(text), format="png")
    with pytest.raises(ValueError, match="channels = '2': input should be 1 or 3"):
        TrainSettings.of(channels="2")


@pytest.mark.parametrize("model", [TrainSettings, PrepareSettings, settings.PhantomSettings])
def test_every_value_survives_as_text(model):
    assert model.of(**{name: str(value) for name, value in model()}) == model()


def test_settings_in_force_show_the_value_here_the_papers_and_the_meaning():
    table = settings.in_force(TrainSettings.of(epochs=7), PrepareSettings(), seed=(0, 1))
    assert table.loc["EPOCHS", ["here", "the paper"]].tolist() == ["7", "40 (3.1)"]
    assert table.loc["SEED", "here"] == "0, 1" and table.loc["GROWTH_RATE", "the paper"] == "not said"
    assert set(table.index) == {
        name.upper() for model in (TrainSettings, PrepareSettings) for name in model.model_fields
    }
    assert table["meaning"].str.len().between(5, 100).all() and (table["here"] != "").all()


def test_only_parameters_are_named_in_capitals():
    named = {"DATASET": 1, "SEEDS": 1, "PATIENTS": 1, "BITS": 1, "EPOCHS": 1, "DROP_RATES": 1, "np": 1, "_": 1, "In": 1}
    settings.refuse_unknown(named, ["DROP_RATES"])
    for wrong, right in (
        ("EPOCH", "EPOCHS"),
        ("LERNING_RATE", "LEARNING_RATE"),
        ("SEED", "SEEDS"),
        ("DROP_RATES", "DROP"),
    ):
        with pytest.raises(ValueError, match=f"no parameter {wrong}: did you mean {right}"):
            settings.refuse_unknown([*sorted(named.keys() - {"DROP_RATES"}), wrong])
    with pytest.raises(ValueError, match=r"no parameter MODEL: the parameters are BATCH_SIZE, .*, WIDTH$"):
        settings.refuse_unknown(["MODEL"])


def test_a_dataset_is_named_by_text():
    assert paths.prepared("0777").name == "0777"
    for ask in (paths.prepared, paths.read_dataset, settings.is_phantom):
        with pytest.raises(ValueError, match="511 is a number: write the name in quotes"):
            ask(0o777)


def test_equal_settings_have_equal_digests_and_others_do_not():
    assert TrainSettings.of(epochs=3).digest() == TrainSettings.of(epochs="3").digest()
    digests = {TrainSettings.of(seed=seed).digest() for seed in range(5)}
    assert len(digests) == 5


@pytest.mark.parametrize("given", ["0,1,2", "[0, 1, 2]", [0, 1, 2], (0, 1, 2), ["0", "1", "2"]])
def test_seeds_come_as_a_list_or_as_text(given):
    assert settings.seeds(given) == (0, 1, 2)


@pytest.mark.parametrize("given", ["", "a", [], "0,0", "-1", "1.5", None, "1;2"])
def test_other_seeds_are_refused(given):
    with pytest.raises(ValueError, match="seeds"):
        settings.seeds(given)
    assert settings.seeds(3) == (3,)


def test_parameters_in_capitals_become_settings():
    namespace = {"EPOCHS": "2", "DATASET": "phantom", "epochs": 9, "_": 1}
    assert TrainSettings.from_parameters(namespace, seed=4) == TrainSettings.of(epochs=2, seed=4)


def test_phantoms_are_told_by_their_name():
    assert [settings.is_phantom(name) for name in ("phantom", "phantom-paper", "phantoms", "nih")] == [
        True,
        True,
        False,
        False,
    ]


def test_a_resnet34_keeps_all_but_what_only_a_densenet_has():
    base = TrainSettings.of(model="densenet", stem="7x7", reduction=0.5, epochs=3, checkpoint_every=2)
    assert base.resnet34(scale_factor=1) == TrainSettings.of(epochs=3, checkpoint_every=2, scale_factor=1)


@pytest.mark.parametrize("wrong", [{"image_size": 64}, {"norm_layer": "group"}])
def test_inception_v3_says_what_it_needs(wrong):
    assert TrainSettings.of(model="inception_v3", image_size=75).architecture()["model"] == "inception_v3"
    with pytest.raises(ValueError, match="inception_v3 needs image_size = 75 or more, and norm_layer = batch"):
        TrainSettings.of(**{"model": "inception_v3", "image_size": 96} | wrong)
