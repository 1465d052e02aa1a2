"""MONAI bundles as folders: where they are, what their metadata say, their weights and configs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sdseg_monai.errors import InputError, find_fault, find_input_error, root_cause, short
from sdseg_monai.io.bundles.aliases import refuse_aliases
from sdseg_monai.io.bundles.archives import unpack_bundle
from sdseg_monai.io.bundles.code import TARGET, Code, find_code, known_code
from sdseg_monai.io.bundles.entries import Entry
from sdseg_monai.io.bundles.mirrors import read_mirrored_axes
from sdseg_monai.io.bundles.texts import read_text
from sdseg_monai.io.bundles.trust import check_trust, code_digest, list_modules
from sdseg_monai.io.files import hash_file
from sdseg_monai.io.segments import Segment, read_modality, read_segments

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

DEFAULT_BUNDLE = "hippocampus_sdseg"
NO_CONFIGS = ("metadata.json", "datalist.json")  # of the files in configs
# the code that the package writes or has written, beside what is in the shipped configs
CONVERTED = {"network_def#schedule": {TARGET: "sdseg_monai.schedule.NoiseSchedule"}}
OF_0_4_0 = {
    "train#handlers": [{TARGET: "sdseg_monai.handlers.Checkpoint"}],
    "postprocessing#transforms": [
        {
            TARGET: "Invertd",
            "transform": "@preprocessing",
            "keys": 0,
            "orig_keys": 0,
            "nearest_interp": 0,
            "to_tensor": 0,
        },
        {TARGET: "AsDiscreted", "threshold": "$0.5 if @num_classes == 2 else None", "argmax": "$@num_classes > 2"},
        {TARGET: "sdseg_monai.transforms.SaveMaskd"},
    ],
}
T = TypeVar("T")


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder. Only :meth:`config` imports MONAI, and nothing here evaluates a config's expressions.

    Attributes:
        root: the folder, with ``configs`` in it.
        trust: the user trusts this bundle's code; it is remembered once it is needed, see :meth:`config`.

    Example:
        >>> from sdseg_monai.bundle import Bundle
        >>> Bundle.open("hippocampus_sdseg").labels
        {'Anterior hippocampus': 1, 'Posterior hippocampus': 2}
    """

    root: Path
    trust: bool = False

    @classmethod
    def open(cls, bundle: str | Path, trust: bool = False) -> Bundle:
        """Return a bundle, given its folder, a zip file of it or the name of a shipped one.

        Raises:
            InputError: there is no such bundle, or it has no ``configs/inference.json``.
        """
        if not str(bundle):  # as from a shell variable that is not set
            raise InputError("a bundle without a name, expected a name, a folder or a zip")
        # the name of a shipped bundle comes first; a folder of the same name can be given as ./NAME
        root = bundles_dir() / bundle if str(bundle) in shipped_bundles() else Path(bundle)
        if root.is_file() and root.suffix.lower() == ".zip":
            root = unpack_bundle(root)
        if not root.is_dir():
            names = ", ".join(shipped_bundles())
            raise InputError(
                f"{bundle}: no bundle of that name and no such folder, expected {names}, a folder or a zip"
            )
        if not cls(root).config_file("inference").is_file():
            raise InputError(f"{root}: no configs/inference.json there, expected a bundle's folder")
        return cls(root, trust)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.root.resolve().name

    def config_file(self, name: str) -> Path:
        """Return the path of the config of that name, such as ``train``, whether or not the file exists."""
        return self.root / "configs" / f"{name}.json"

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The content of ``configs/metadata.json``.

        Raises:
            InputError: the file is missing or is not JSON.
        """
        file = self.config_file("metadata")
        with config_errors(file):
            return json.loads(file.read_text())

    @cached_property
    def segments(self) -> dict[int, Segment]:
        """Name, colour and code of each value of a mask except 0, the background.

        Raises:
            InputError: the metadata do not describe the masks.
        """
        return self._read_metadata(read_segments)

    @property
    def labels(self) -> dict[str, int]:
        """The values of a mask by the names of their segments; raises as :attr:`segments` does."""
        return {segment.name: value for value, segment in self.segments.items()}

    @property
    def modality(self) -> str:
        """The images' modality in DICOM's terms, or ``RGB`` for photographs; empty where the metadata name none.

        Raises:
            InputError: the metadata do not describe the images.
        """
        return self._read_metadata(read_modality)

    @property
    def version(self) -> str:
        """The bundle's version.

        Raises:
            InputError: the metadata have none.
        """
        return self._read_metadata(lambda metadata: metadata["version"].text())

    @property
    def description(self) -> str:
        """The bundle's description, one line for a viewer.

        Raises:
            InputError: the metadata have none.
        """
        return self._read_metadata(lambda metadata: metadata["description"].text())

    def _read_metadata(self, read: Callable[[Entry], T]) -> T:
        metadata = Entry(self.metadata)
        try:
            return read(metadata)
        except InputError as error:
            raise InputError(f"{self.config_file('metadata')}: cannot be used: {error}") from error

    @cached_property
    def mirrored_axes(self) -> list[int]:
        """The axes of a slice along which ``configs/train.json`` mirrors the training's slices, 0 or 1 each, sorted.

        Empty where there is no such file, or where it does not say so in the words of :func:`read_mirrored_axes`.

        Raises:
            InputError: the file is not a config.
        """
        file = self.config_file("train")
        if not file.is_file():
            return []
        with config_errors(file):
            return read_mirrored_axes(json.loads(file.read_text()))

    @property
    def weights(self) -> Path | None:
        """The file of the weights, ``checkpoint`` in ``configs/inference.json``; None where there is no such file.

        Raises:
            InputError: the config has no ``checkpoint``, or one that cannot be known without running the config, see
                :func:`~sdseg_monai.io.bundles.texts.read_text`.
        """
        expression, file = self._checkpoint()
        if file is None:
            raise InputError(
                f"{self.config_file('inference')}: checkpoint {expression!r} is an expression that is not evaluated "
                "here, expected a path: texts and references such as @bundle_root, joined by +"
            )
        return file if file.is_file() else None

    def _checkpoint(self) -> tuple[str, Path | None]:
        """Return the config's ``checkpoint`` and its path, None where only running the config would give the path."""
        config_file = self.config_file("inference")
        with config_errors(config_file):
            config = {**json.loads(config_file.read_text()), "bundle_root": literal_path(self.root)}
            path = read_text(config, "checkpoint")
            return config["checkpoint"], None if path is None else Path(path)

    def describe(self) -> dict[str, Any]:
        """Return a summary of the bundle: version, task, intended use, copyright, data, modality, labels and weights.

        ``weights`` is None where the bundle has none, else a ``file`` and its ``sha256``. Where only running the config
        would give the path, both are None and ``checkpoint`` is the config's expression.

        Raises:
            InputError: the metadata or the config lack one of these.
        """
        expression, file = self._checkpoint()
        weights: dict[str, str | None] | None = None
        if file is None:
            weights = {"file": None, "sha256": None, "checkpoint": expression}
        elif file.is_file():
            weights = {"file": str(file), "sha256": hash_file(file)}
        keys = ("version", "task", "intended_use", "copyright", "data_source")
        return {
            "folder": str(self.root),
            **self._read_metadata(lambda metadata: {key: metadata[key].value for key in keys}),
            "modality": self.modality,
            "labels": self.labels,
            "weights": weights,
        }

    def config(self, name: str, overlays: Sequence[Path] = (), *, imports_modules: bool = False) -> ConfigParser:
        """Return the config of that name with ``overlays`` chained after it, of which the later ones win.

        Nothing is evaluated yet; whoever instantiates parts of the config runs the bundle's code. Code that also stands
        in the shipped configs is known. Any other code runs only if the user trusts it: ``trust`` was given for this
        bundle, or once before, when its code was the same. The same holds for each overlay.

        Args:
            name: such as ``train``.
            overlays: configs.
            imports_modules: whoever asks will let Python import modules from the bundle's folder; they are code too.

        Raises:
            ArgumentError: the bundle or an overlay has code that is not known and not trusted.
            InputError: an overlay is missing, is not a config, has aliases of YAML, or changes a value that the configs
                before it lack.
        """
        from monai.bundle import ConfigParser

        file = self.config_file(name)
        parser = ConfigParser()
        parser.read_config(file)
        code = find_code(parser.get()) - shipped_code()
        modules = list_modules(self.root) if imports_modules else []
        if code or modules:
            check_trust(self.root, code_digest(self.root), [*sorted(code), *modules], self.trust)
        chain = [file]
        for overlay in overlays:
            if not overlay.is_file():
                raise InputError(f"{overlay}: no such file, expected an overlay for {file}")
            chain.append(overlay)
            try:
                refuse_aliases(overlay)
                parser.read_config(chain)
            except InputError:
                raise
            except Exception as error:  # the parsers of JSON and YAML have exceptions of their own
                raise InputError(
                    f"{overlay}: cannot be chained after {file} ({error!r}), expected an overlay"
                ) from error
            new_code = find_code(parser.get()) - shipped_code() - code
            if new_code:
                check_trust(overlay, hash_file(overlay), sorted(new_code), self.trust)
                code |= new_code
        parser["bundle_root"] = literal_path(self.root)
        return parser


@cache
def shipped_code() -> set[Code]:
    """Return all code in the configs of the shipped bundles, and in those that this package and 0.4.0 write."""
    files = (file for name in shipped_bundles() for file in (bundles_dir() / name / "configs").rglob("*.json"))
    configs = [json.loads(file.read_text()) for file in files if file.name not in NO_CONFIGS]
    return set().union(*map(known_code, [*configs, CONVERTED, OF_0_4_0]))


def bundles_dir() -> Path:
    """Return the folder of the shipped bundles: inside the installed package, or beside the package in a clone."""
    package = Path(__file__).parent
    installed = package / "bundles"
    return installed if installed.is_dir() else package.parent / "bundles"


def shipped_bundles() -> list[str]:
    """Return the names of the bundles that come with the package, with weights or without."""
    return sorted(folder.name for folder in bundles_dir().iterdir() if (folder / "configs").is_dir())


def literal_path(path: Path) -> str:
    """Return ``path`` as a text that MONAI takes literally: it would evaluate one that begins with ``$``."""
    return f"./{path}" if str(path)[0] in "$@%" else str(path)


def read_part(parser: ConfigParser, config: Path, name: str, *kinds: type) -> Any:
    """Return a part of a config, which runs the config's code for it.

    Args:
        parser: the config, see :meth:`Bundle.config`.
        config: its file, for messages.
        name: of the part, such as ``network`` or ``train#preprocessing``.
        kinds: the classes of which the part must be one; none for any.

    Raises:
        InputError: there is no such part, it cannot be made, or it is of another kind.
    """
    if name not in parser:
        raise InputError(f"{config}: cannot be used: no {name}, expected a bundle of this kind")
    with config_errors(config):
        try:
            part = parser.get_parsed_content(name)
        except Exception as error:
            input_error = find_input_error(error)
            if input_error is None:
                raise
            raise InputError(f"{config}: {name}: {input_error}") from error
    if kinds and (not isinstance(part, kinds) or isinstance(part, bool)):  # Python takes True for a whole number
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"{config}: {name} is a {type(part).__name__}, {short(part)}, expected {expected}")
    return part


def read_path(parser: ConfigParser, config: Path, name: str) -> Path:
    """Return a path that a config names; raises as :func:`read_part` does."""
    return Path(read_part(parser, config, name, str, Path))


@contextmanager
def config_errors(config: Path) -> Iterator[None]:
    """Turn what a bundle's config raises while it is used into an :class:`InputError` that names the config."""
    try:
        yield
    except Exception as error:  # a config is a program and may raise anything
        input_error = find_input_error(error)
        if input_error is not None:
            raise input_error from error
        fault = find_fault(error)
        reason = f"cannot be used ({root_cause(error)!r})" if fault is None else fault.text
        raise InputError(f"{config}: {reason}, expected a bundle of this kind") from error
