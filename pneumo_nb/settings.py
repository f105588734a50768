"""The parameters of every stage as validated models. Everything that the paper leaves unsaid is a named field here.

A default is the paper's value where it prints one, and the reading nearest to the paper where it does not: `in_force`
shows which. Values may arrive as text (papermill passes `5e-5` and `true` as strings): they are parsed, never guessed.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from pneumo_nb import paths


class Settings(BaseModel):
    """Common ground: unknown names are refused, values are frozen and written with their defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _choice_from_text(cls, value: Any, info: ValidationInfo) -> Any:
        """Of a choice between numbers, such as `bits`, the one that a text names: pydantic parses all others itself."""
        choices = get_args(cls.model_fields[info.field_name].annotation)
        return next((choice for choice in choices if str(choice) == value), value)

    @classmethod
    def of(cls, **values: Any) -> "Settings":
        """Validate `values`; every wrong name or value is named in the one line of the ValueError."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise ValueError("; ".join(_sentence(cls, problem) for problem in error.errors())) from None

    @classmethod
    def from_parameters(cls, namespace: dict[str, Any], **more: Any) -> "Settings":
        """The settings that a notebook's `parameters` cell names in capitals (IMAGE_SIZE -> image_size), and `more`."""
        named = {name.lower(): value for name, value in namespace.items() if name.isupper()}
        return cls.of(**{name: value for name, value in named.items() if name in cls.model_fields} | more)

    def varied(self, **changes: Any) -> "Settings":
        """The same settings but for these changes, validated like all."""
        return self.of(**(dict(self) | changes))

    def digest(self) -> str:
        """Hash of all values that decide a result: equal settings, equal digest, on any machine."""
        return digest(self.model_dump())


def refuse(wrong: Any, reason: str, kind: type[Exception] = ValueError) -> None:
    """Raise the error, with its one line, if anything is `wrong`."""
    if wrong:
        raise kind(reason)


def digest(content: Any) -> str:
    """SHA-256 of plain content (dicts, lists, numbers, text) in canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sentence(cls: type[BaseModel], problem: Any) -> str:
    if not problem["loc"]:  # a rule over several fields speaks for itself
        return problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"there is no setting {problem['loc'][0]!r}; the settings are {', '.join(cls.model_fields)}"
    return f"{problem['loc'][0]} = {problem['input']!r}: {problem['msg'].lower()}"


def seeds(value: Any) -> tuple[int, ...]:
    """Training seeds from a list, or from text such as "0,1,2"; a ValueError says what is wrong with others."""
    parts = value.strip("[]() ").split(",") if isinstance(value, str) else value
    try:
        found = tuple(int(str(part)) for part in (parts if isinstance(parts, list | tuple) else [parts]))
    except ValueError:
        found = ()
    if not found or min(found) < 0 or len(set(found)) < len(found):
        raise ValueError(f"seeds = {value!r}: whole numbers from 0, each once, such as 0,1,2, are right")
    return found


def is_phantom(dataset: str) -> bool:
    """Datasets of this name are built by notebook 01 from the phantom; all others are prepared by the user."""
    paths.prepared(dataset)  # it refuses what cannot be a name
    return dataset.partition("-")[0] == "phantom"


SMOKE = {"VALIDATION_FRACTION": 0.27, "DOWNSIZE": 2}  # how notebook 01 prepares the phantom
COMMON = {"DATASET", "DEVICE", "SEEDS", "SCHEDULER"}  # parameters of notebooks that are no setting


def refuse_unknown(names: Iterable[str], own: Iterable[str] = ()) -> None:
    """A ValueError for the first name in capitals that is no parameter, with the nearest that is.

    `names` may be all of a notebook's globals. MODEL and SEED are none: a notebook is about its model, and has SEEDS.
    """
    fields = {name for stage in STAGES for name in stage.model_fields}
    known = sorted({field.upper() for field in fields - {"model", "seed"}} | COMMON | set(own))
    for name in (name for name in names if name.isupper() and name not in known):
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.65)
        right = f"did you mean {nearest[0]}?" if nearest else f"the parameters are {', '.join(known)}"
        raise ValueError(f"there is no parameter {name}: {right}")


def in_force(*stages: "Settings", **varied: Any) -> pd.DataFrame:
    """All settings of these stages: *here*, what *the paper* says, *meaning*; a row each, by their names in capitals.

    `varied` are the values of what the caller varies, to be shown instead of the one in `stages`.
    """
    rows = {}
    for name, value, field in ((*pair, type(stage).model_fields[pair[0]]) for stage in stages for pair in stage):
        here = ", ".join(map(str, varied[name])) if name in varied else str(value)
        rows[name.upper()] = here, field.json_schema_extra["paper"], field.description
    return pd.DataFrame.from_dict(rows, orient="index", columns=["here", "the paper", "meaning"]).rename_axis("name")


def _field(default: Any, meaning: str, paper: str = "not said", **limits: Any) -> Any:
    """A field: its meaning, and apart from it what the paper says; {} is the default, where the paper prints it."""
    return Field(default, description=meaning, json_schema_extra={"paper": paper.format(default)}, **limits)


class PhantomSettings(Settings):
    """How many synthetic radiographs, how large, how ill. The defaults are the smoke size; the paper's stand beside."""

    patients: int = _field(720, "radiographs, one for each patient", "706 (2.1)", ge=10)
    positives: int = _field(180, "with pneumoconiosis", "142 (2.1)", ge=2)
    width: int = _field(512, "pixels of the original", "four times 694 (2.1): 2776", ge=128)
    height: int = _field(530, "pixels of the original", "four times 719 (2.1): 2876", ge=128)
    phantom_seed: int = _field(0, "every radiograph follows from it and from its index", ge=0)
    mix: Literal["marked", "screening"] = _field("marked", "disease of the positives: screening is mostly early stages")

    @model_validator(mode="after")
    def _some_are_healthy(self) -> "PhantomSettings":
        if self.positives > self.patients - 2:
            raise ValueError(f"positives = {self.positives}: at most patients - 2 = {self.patients - 2}")
        return self


class PrepareSettings(Settings):
    """From a source folder to a prepared dataset (Section 2.1)."""

    voi: bool = _field(True, "apply the file's VOI LUT or window")
    bits: Literal[8, 16] = _field(8, "bits a pixel; 16 needs png", "jpg, hence {} (2.1)")
    polarity: Literal["shape", "photometric"] = _field(
        "shape", "decides where PresentationLUTShape and PhotometricInterpretation differ"
    )
    equalise: Literal["global", "clahe", "none"] = _field("global", "histogram equalisation", "equalised (2.1)")
    order: Literal["equalise_first", "downsize_first"] = _field("equalise_first", "what comes first", "{} (2.1)")
    downsize: int = _field(4, "linear factor", "'one quarter' (2.1); of the area it would be 2", ge=1, le=16)
    interpolation: Literal["area", "linear", "cubic", "nearest"] = _field("area", "in downsizing")
    format: Literal["jpg", "png"] = _field("jpg", "of the prepared images", "{} (2.1)")
    quality: int = _field(95, "of the JPG", ge=1, le=100)
    split: Literal["patient", "paper", "given"] = _field("patient", "by patient, image, or as given", "by image (2.1)")
    test_fraction: float = _field(0.2, "share of the testing set", "{}, four to one (2.1)", gt=0, lt=1)
    validation_fraction: float = _field(0.0, "share of the training set that is set aside", "none", ge=0, lt=1)
    split_seed: int = _field(0, "of the split", "none given", ge=0)
    burned_in: Literal["list", "refuse", "ignore"] = _field("list", "radiographs that seem to show text")
    dates: Literal["none", "shifted"] = _field("none", "shifted: by a secret number of days for each patient")

    @model_validator(mode="after")
    def _jpg_has_eight_bits(self) -> "PrepareSettings":
        refuse(self.bits == 16 and self.format == "jpg", "bits = 16 needs format = png, since a JPG holds 8 bits")
        return self


# Share of a pixel that must be covered for it to belong to the mask: half for the lungs, whose area then stays what it
# was; a quarter for opacities, of which the smallest are hardly larger than a prepared pixel and would vanish.
COVERED = {"lungs": 0.5, "opacities": 0.25}
DENSENET_FIELDS = {"depth", "blocks", "bottleneck", "growth_rate", "reduction", "reduction_reading", "drop_rate"}
DENSENET_FIELDS |= {"stem", "checkpointing"}


def layers_per_block(depth: int, blocks: int, bottleneck: bool) -> int:
    """How many basic or bottleneck blocks a dense block holds; a ValueError names the depths beside one that fits none.

    The stem, the transitions and the fully connected layer are blocks + 1 layers; the rest is shared out.
    """
    around, step = blocks + 1, blocks * (2 if bottleneck else 1)
    layers, left = divmod(depth - around, step)
    if left or layers < 1:
        below, how = max(layers, 1) * step + around, "with" if bottleneck else "without"
        fit = f"{blocks} dense blocks {how} bottleneck: {below} and {below + step} do"
        raise ValueError(f"depth = {depth} does not fit {fit}")
    return layers


class TrainSettings(Settings):
    """One training run (Sections 2.2, 3.1 and 3.2)."""

    model: Literal["resnet34", "densenet", "inception_v3"] = _field("resnet34", "network", "both (2.2.1, 2.2.2)")
    depth: int = _field(53, "of a DenseNet: convolutions and linear layers", "40, 64, {} (Table 3)", ge=1)
    blocks: int = _field(4, "dense blocks", "3, 3, {} (Figure 8)", ge=1, le=8)
    bottleneck: bool = _field(True, "a 1x1 convolution before each 3x3", "False, {} (Table 6)")
    growth_rate: int = _field(12, "feature maps that a layer adds", ge=1)
    reduction: float = _field(0.25, "of the channels in a transition", "{}, 0.5, 1 (Table 5)", gt=0, le=1)
    reduction_reading: Literal["multiply", "divide"] = _field("multiply", "channels times reduction, or over it")
    drop_rate: float = _field(0.0, "dropout after each convolution but the stem", "{:g}, 0.25 (Table 4)", ge=0, lt=1)
    stem: Literal["3x3", "7x7"] = _field("3x3", "7x7: stride 2, then pooling; much faster", "{} (Figures 6, 8)")
    checkpointing: bool = _field(False, "layers computed twice to save memory; same results")
    initial_weights: str = _field("scratch", "scratch, or a safetensors file")
    channels: Literal[1, 3] = _field(3, "input channels, the grey image repeated")
    image_size: int = _field(672, "pixels a side", "{} (3.1)", ge=16, le=4096)
    fit: Literal["stretch", "pad", "crop"] = _field("stretch", "how a radiograph becomes square", "'resized' (3.1)")
    normalisation: Literal["none", "dataset", "imagenet"] = _field("none", "whose mean and SD grey levels are put to")
    norm_layer: Literal["batch", "group"] = _field("batch", "batch normalisation, or group", "batch (2.2.2)")
    norm_statistics: Literal["training_set", "running"] = _field(
        "training_set",
        "whose mean and SD batch normalisation evaluates with; running: of the last batches",
        "not said; training set in its ref. 30, running in PyTorch",
    )
    loss: Literal["label", "torch_mean", "eq7_literal", "focal", "sampler", "none"] = _field(
        "label", "reading of Eq. 7 (notebook 02)", "'weights on each sample' (3.1)"
    )
    scale_factor: float = _field(5.0, "n of Eq. 7: weight of a positive", "1, {:g} (3.1)", gt=0)
    epochs: int = _field(40, "passes through the training set", "{} (3.1)", ge=1)
    batch_size: int = _field(2, "radiographs a step", "{} (3.1)", ge=1)
    learning_rate: float = _field(5e-5, "of Adam", "{} (3.1)", gt=0)
    weight_decay: float = _field(0.0, "of Adam", ge=0)
    flip: float = _field(0.5, "chance of a horizontal flip", "'random' (3.1)", ge=0, le=1)
    epoch_reported: Literal["last", "best_validation", "best_test"] = _field("last", "best_test is optimistic")
    threshold: float | Literal["youden", "recall90"] = _field(0.5, "a probability, or a rule on the validation part")
    seed: int = _field(0, "of initial weights, order and flips", "none given", ge=0)
    deterministic: bool = _field(True, "the same algorithms in every run; False: the fastest on a GPU")
    precision: Literal["float32", "tf32", "bf16"] = _field("float32", "of the arithmetic; bf16 in training only")
    compile: bool = _field(False, "join operations by torch.compile: minutes at first, faster then")
    checkpoint_every: int = _field(1, "epochs that a stopped run may lose", ge=1, exclude=True)  # part of no key
    in_memory_mib: Annotated[float, Field(ge=0)] | Literal["half"] = _field(
        "half", "of images in memory, others are mapped; half: of what is free", exclude=True
    )

    @model_validator(mode="after")
    def _fits_its_network(self) -> "TrainSettings":
        layers_per_block(self.depth, self.blocks, self.bottleneck)
        if self.model == "inception_v3" and (self.image_size < 75 or self.norm_layer != "batch"):
            raise ValueError("model = inception_v3 needs image_size = 75 or more, and norm_layer = batch")
        return self

    def resnet34(self, **changes: Any) -> "TrainSettings":
        """The same training of a ResNet34: what only a DenseNet has goes back to its default, as it is part of keys."""
        kept = {name: value for name, value in self if name not in DENSENET_FIELDS}
        return self.of(**kept | {"model": "resnet34"} | changes)

    def architecture(self) -> dict[str, Any]:
        """What `models.build` needs to know but the seed; the fields of DenseNets only where they count."""
        names = {"model", "channels", "norm_layer"} | (DENSENET_FIELDS if self.model == "densenet" else set())
        return self.model_dump(include=names)


STAGES = PhantomSettings, PrepareSettings, TrainSettings
