"""The parameters of every stage as validated models. Everything that the paper leaves unsaid is a named field here.

A default is the paper's value where it prints one, and the reading nearest to the paper where it does not; each field
says which. Values may arrive as text (papermill passes `5e-5` and `true` as strings): they are parsed, never guessed.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class Settings(BaseModel):
    """Common ground: unknown names are refused, values are frozen and written with their defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

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


def digest(content: Any) -> str:
    """SHA-256 of plain content (dicts, lists, numbers, text) in canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sentence(cls: type[BaseModel], problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"][:1])
    if not problem["loc"]:  # a rule over several fields speaks for itself
        return problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"there is no setting {name!r}; the settings are {', '.join(cls.model_fields)}"
    return f"{name} = {problem['input']!r}: {problem['msg'].lower()}"


def seeds(value: Any) -> tuple[int, ...]:
    """Training seeds from a list, or from text such as "0,1,2"; a ValueError says what is wrong with others."""
    parts = value.strip("[]() ").split(",") if isinstance(value, str) else list(value) if _listed(value) else [value]
    try:
        found = tuple(int(str(part)) for part in parts)
    except ValueError:
        found = ()
    if not found or min(found) < 0 or len(set(found)) < len(found):
        raise ValueError(f"seeds = {value!r}: whole numbers from 0, each once, such as 0,1,2, are right")
    return found


def jobs(value: Any) -> int:
    """How many runs to train at once; a ValueError if that is not a whole number from 1."""
    if not str(value).isdecimal() or int(value) < 1:
        raise ValueError(f"jobs = {value!r}: a whole number from 1 is right")
    return int(value)


def _listed(value: Any) -> bool:
    return isinstance(value, list | tuple)


def is_phantom(dataset: str) -> bool:
    """Datasets of this name are built by notebook 01 from the phantom; all others are prepared by the user."""
    return dataset == "phantom" or dataset.startswith("phantom-")


COMMON = {"DATASET", "DEVICE", "SEEDS", "SCHEDULER"}  # parameters of notebooks that are no setting


def refuse_unknown(names: Iterable[str], own: Iterable[str] = ()) -> None:
    """A ValueError for the first name in capitals that is no parameter, with the nearest that is.

    `names` may be all of a notebook's globals. MODEL and SEED are none: a notebook is about its model, and SEEDS holds
    the seeds.
    """
    fields = {*PhantomSettings.model_fields, *PrepareSettings.model_fields, *TrainSettings.model_fields}
    known = sorted({field.upper() for field in fields - {"model", "seed"}} | COMMON | set(own))
    for name in (name for name in names if name.isupper() and name not in known):
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.65)
        right = f"did you mean {nearest[0]}?" if nearest else f"the parameters are {', '.join(known)}"
        raise ValueError(f"there is no parameter {name}: {right}")


class PhantomSettings(Settings):
    """How many synthetic radiographs, and how large. The defaults are the smoke size; the paper's stand beside."""

    patients: int = Field(150, ge=10, description="radiographs, one for each patient (Section 2.1: 706)")
    positives: int = Field(45, ge=2, description="with pneumoconiosis (Section 2.1: 142)")
    width: int = Field(512, ge=128, description="pixels of the original (four times Section 2.1's 694: 2776)")
    height: int = Field(530, ge=128, description="pixels of the original (four times Section 2.1's 719: 2876)")
    phantom_seed: int = Field(0, ge=0, description="every radiograph follows from it and from its index")

    @model_validator(mode="after")
    def _some_are_healthy(self) -> "PhantomSettings":
        if self.positives > self.patients - 2:
            raise ValueError(f"positives = {self.positives}: at most patients - 2 = {self.patients - 2}")
        return self


class PrepareSettings(Settings):
    """From a source folder to a prepared dataset (Section 2.1)."""

    voi: bool = Field(True, description="apply the file's VOI LUT or window (paper: not said)")
    bits: Literal[8, 16] = Field(8, description="bits a pixel; 16 needs png (paper: jpg, hence 8)")
    equalise: Literal["global", "clahe", "none"] = Field("global", description="histogram equalisation (Section 2.1)")
    order: Literal["equalise_first", "downsize_first"] = Field(
        "equalise_first", description="Section 2.1 says 'first ... second ...'"
    )
    downsize: int = Field(4, ge=1, le=16, description="linear factor; 'one quarter' could also mean the area, then 2")
    interpolation: Literal["area", "linear", "cubic", "nearest"] = Field("area", description="paper: not said")
    format: Literal["jpg", "png"] = Field("jpg", description="Section 2.1: jpg")
    quality: int = Field(95, ge=1, le=100, description="of the JPG (paper: not said)")
    split: Literal["patient", "paper", "given"] = Field(
        "patient",
        description="patient: no patient on both sides; paper: by image (Section 2.1); given: a split column",
    )
    test_fraction: float = Field(0.2, gt=0, lt=1, description="Section 2.1: four to one")
    validation_fraction: float = Field(0.0, ge=0, lt=1, description="share of the training set; paper: none")
    split_seed: int = Field(0, ge=0, description="paper: none given")
    burned_in: Literal["list", "refuse", "ignore"] = Field(
        "list", description="radiographs that seem to show text: keep and list, refuse, or do not look (not said)"
    )
    dates: Literal["none", "shifted"] = Field(
        "none", description="shifted: by a secret number of days for each patient (paper: not said)"
    )

    @model_validator(mode="after")
    def _jpg_has_eight_bits(self) -> "PrepareSettings":
        if self.bits == 16 and self.format == "jpg":
            raise ValueError("bits = 16 needs format = png, since a JPG holds 8 bits")
        return self


DENSENET_FIELDS = {
    "depth",
    "blocks",
    "bottleneck",
    "growth_rate",
    "reduction",
    "reduction_reading",
    "drop_rate",
    "stem",
    "checkpointing",
}


def layers_per_block(depth: int, blocks: int, bottleneck: bool) -> int:
    """How many basic or bottleneck blocks a dense block holds; a ValueError names the depths beside one that fits none.

    The stem, the transitions and the fully connected layer are blocks + 1 layers; the rest is shared out.
    """
    around, per_layer = blocks + 1, 2 if bottleneck else 1
    layers, left = divmod(depth - around, per_layer * blocks)
    if left or layers < 1:
        below = max(layers, 1) * per_layer * blocks + around
        raise ValueError(
            f"depth = {depth} does not fit {blocks} dense blocks {'with' if bottleneck else 'without'} bottleneck:"
            f" {below} and {below + per_layer * blocks} do"
        )
    return layers


class TrainSettings(Settings):
    """One training run (Sections 2.2, 3.1 and 3.2)."""

    model: Literal["resnet34", "densenet"] = Field("resnet34", description="Sections 2.2.1 and 2.2.2")
    depth: int = Field(53, ge=1, description="of a DenseNet, in convolutions and linear layers (Table 3: 40, 64, 53)")
    blocks: int = Field(4, ge=1, le=8, description="dense blocks (Figure 8: DenseNet53 has 4, the others 3)")
    bottleneck: bool = Field(True, description="a 1x1 convolution before each 3x3 (Table 6: false and true)")
    growth_rate: int = Field(12, ge=1, description="feature maps that a layer adds (paper: not said)")
    reduction: float = Field(0.25, gt=0, le=1, description="of the channels in a transition (Table 5: 0.25, 0.5, 1)")
    reduction_reading: Literal["multiply", "divide"] = Field(
        "multiply", description="channels times reduction, rounded down, or over it, as Section 3.2.3 has it"
    )
    drop_rate: float = Field(0.0, ge=0, lt=1, description="dropout after each convolution (Table 4: 0 and 0.25)")
    stem: Literal["3x3", "7x7"] = Field("3x3", description="3x3, stride 1 (Figures 6, 8); 7x7, stride 2, and pooling")
    checkpointing: bool = Field(False, description="DenseNet layers computed twice to save memory; same results")
    initial_weights: str = Field("scratch", description="scratch, or a safetensors file (paper: not said)")
    channels: Literal[1, 3] = Field(3, description="input channels, the grey image repeated (paper: not said)")
    image_size: int = Field(672, ge=16, le=4096, description="pixels a side (Section 3.1)")
    fit: Literal["stretch", "pad", "crop"] = Field(
        "stretch", description="how a radiograph becomes square (paper: 'resized into 672x672')"
    )
    normalisation: Literal["none", "dataset", "imagenet"] = Field(
        "none", description="none: grey levels / 255; dataset: mean and SD of the training set (paper: not said)"
    )
    norm_layer: Literal["batch", "group"] = Field("batch", description="batch normalisation sees 2 images (not said)")
    loss: Literal["label", "torch_mean", "eq7_literal", "focal", "sampler", "none"] = Field(
        "label", description="reading of Eq. 7; see pneumo_nb.losses"
    )
    scale_factor: float = Field(5.0, gt=0, description="n of Eq. 7: weight of a positive (Section 3.1: 1 and 5)")
    epochs: int = Field(40, ge=1, description="Section 3.1")
    batch_size: int = Field(2, ge=1, description="Section 3.1")
    learning_rate: float = Field(5e-5, gt=0, description="Adam (Section 3.1)")
    weight_decay: float = Field(0.0, ge=0, description="Adam (paper: not said)")
    flip: float = Field(0.5, ge=0, le=1, description="chance of a horizontal flip (Section 3.1: random)")
    epoch_reported: Literal["last", "best_validation", "best_test"] = Field(
        "last", description="paper: not said; best_test chooses on the set it reports and is optimistic"
    )
    threshold: float | Literal["youden", "recall90"] = Field(
        0.5, description="on the probability of pneumoconiosis; a rule is applied to the validation part (not said)"
    )
    seed: int = Field(0, ge=0, description="of the initial weights, the order of images and the flips (paper: none)")
    deterministic: bool = Field(True, description="the same algorithms in every run; false: the fastest on a GPU")
    precision: Literal["float32", "tf32", "bf16"] = Field(
        "float32", description="of a step's arithmetic: tf32 for GPUs, bf16 in training only (paper: not said)"
    )
    compile: bool = Field(False, description="join a step's operations by torch.compile: minutes first, faster then")
    checkpoint_every: int = Field(  # how a run is kept safe is no part of it: left out of records and keys
        1, ge=1, exclude=True, description="epochs that a stopped run may lose; saving large networks takes time"
    )

    @model_validator(mode="after")
    def _layers_fit_their_blocks(self) -> "TrainSettings":
        layers_per_block(self.depth, self.blocks, self.bottleneck)
        return self

    def architecture(self) -> dict[str, Any]:
        """What `models.build` needs to know but the seed; the fields of DenseNets only where they count."""
        names = {"model", "channels", "norm_layer"} | (DENSENET_FIELDS if self.model == "densenet" else set())
        return self.model_dump(include=names)
