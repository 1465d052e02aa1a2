"""MONAI Label's datastore of DICOM series on a DICOMweb server or in a folder; final labels are stored as DICOM SEG."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import SimpleITK as sitk
from filelock import FileLock
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.dicom import dicom_web_download_series
from monailabel.interfaces.datastore import DefaultLabelTag
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom import Series, choose_series, read_series
from sdseg_monai.io.dicom.terms import NOT_IMAGES
from sdseg_monai.io.files import write_folder
from sdseg_monai.io.temporary import scratch_folder
from sdseg_monai.io.volumes import check_same_grid, read_volume, write_volume
from sdseg_monai.label.stores.dicom_seg import Segments, read_seg, write_seg
from sdseg_monai.label.stores.volumes import VolumeDatastore

logger = logging.getLogger(__name__)

# SOPInstanceUID, ContentDate, ContentTime, ReferencedSeriesSequence
SEG_TAGS = ("00080018", "00080023", "00080033", "00081115")
REFERENCES = "ReferencedSeriesSequence"


@dataclass(frozen=True)
class _Segmentation:
    """A DICOM SEG of the server.

    Attributes:
        image: SeriesInstanceUID of the segmented series.
        study: StudyInstanceUID.
        series: SeriesInstanceUID of the SEG.
        instance: SOPInstanceUID.
        content_time: ContentDate and ContentTime.
    """

    image: str
    study: str
    series: str
    instance: str
    content_time: str


class DicomDatastore(VolumeDatastore, DICOMWebDatastore):
    """The image series of a DICOMweb server or a :class:`DicomFolder`; an image's id is its SeriesInstanceUID.

    Every call searches the series again, so that a new one is seen at once. Volumes, and labels on their grid, are kept
    in a cache; a final label is stored on the server as DICOM SEG. Of several SEGs of one image the newest that can be
    read is its final label. Nothing on the server is ever removed from here.

    Args:
        client: of a DICOMweb server, or a :class:`DicomFolder`.
        filters: each has values of a series' header; a series must match one of them. ``{}`` matches all.
        models: segments of each served model, for the names in SEGs.
        cache_dir: folder for the cache.
        fetch_by_frame: whether to fetch the voxels frame by frame, as some servers require.
    """

    def __init__(
        self,
        client: Any,
        filters: Sequence[Mapping[str, Any]],
        models: Sequence[Segments],
        cache_dir: Path,
        fetch_by_frame: bool = False,
    ) -> None:
        self._filters = filters
        self._models = models
        self._seg_series: dict[tuple[str, int | None], list[_Segmentation]] = {}
        self._unusable_segs: set[str] = set()
        super().__init__(client, {}, cache_path=str(cache_dir), fetch_by_frame=fetch_by_frame)
        # scorings and requests may fetch the same series; changes of other labels need not wait for this lock
        self._fetch_lock = FileLock(Path(self._datastore_path) / ".fetching.lock")

    def list_images(self) -> list[str]:
        """Return the SeriesInstanceUIDs of the series that match the filters now."""
        return list(self._search())

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Return the series to which a SEG refers."""
        segmentations = self._segmentations()
        return [image for image in self.list_images() if image in segmentations]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Return the series to which no SEG refers."""
        segmentations = self._segmentations()
        return [image for image in self.list_images() if image not in segmentations]

    def get_image_uri(self, image_id: str) -> str:
        """Return the path of a NIfTI file of the series, empty where there is no such series.

        Raises:
            InputError: the slices cannot be fetched or do not form a volume.
        """
        series = self._search(SeriesInstanceUID=image_id).get(image_id) if re.fullmatch(r"\d[\d.]*", image_id) else None
        if series is None:
            return ""
        slice_folder = Path(self._datastore.image_path()) / image_id
        path = slice_folder.with_name(f"{image_id}.nii.gz")
        with self._fetch_lock:
            count = series.get("NumberOfSeriesRelatedInstances")
            if slice_folder.is_dir() and count is not None and count != len(list(slice_folder.iterdir())):
                logger.info("series %s has changed, it is fetched again", image_id)
                self._forget(image_id)
            if not slice_folder.is_dir():
                write_folder(slice_folder, lambda folder: self._download(series.StudyInstanceUID, image_id, folder))
            if not (path.is_file() and image_id in self._datastore.objects):
                with scratch_folder() as folder:
                    volume = folder / path.name
                    image = read_series(self._cached_series(image_id))
                    write_volume(volume, image.array, image)
                    with self._server():
                        info = self._dicom_info(image_id)
                    self._put_image(image_id, volume, info)
        return str(path.resolve())

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """Return the path of a label's volume file, empty where there is none; the final label is the newest SEG's."""
        if label_tag == DefaultLabelTag.FINAL and self.get_image_uri(label_id):
            self._fetch_label(label_id)
        return LocalDatastore.get_label_uri(self, label_id, label_tag)

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Return the paths of images and final labels; a case that cannot be read is left out with a warning."""
        cases = []
        for image_id in self.get_labeled_images():
            try:
                image = self.get_image_uri(image_id)
                label = self.get_label_uri(image_id, DefaultLabelTag.FINAL)
            except InputError as error:
                logger.warning("image %s is left out: %s", image_id, error)
                continue
            if label:
                cases.append({"image": image, "label": label})
        return cases

    def add_image(self, image_id: str | None, image_filename: str, image_info: dict[str, Any] | None) -> str:
        """Refuse to add an image, since images must be sent to the server as DICOM.

        Raises:
            InputError: always.
        """
        raise InputError(f"images of this server are DICOM series, send them to {self.name()}")

    def remove_image(self, image_id: str) -> None:
        """Refuse to remove an image, since studies are removed on the server.

        Raises:
            InputError: always.
        """
        raise InputError(f"images of this server are DICOM series, remove them at {self.name()}")

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label that is only in the cache.

        Raises:
            InputError: it is the final one, a DICOM SEG.
        """
        if label_tag == DefaultLabelTag.FINAL:
            raise InputError(f"final labels of this server are DICOM SEGs, remove them at {self.name()}")
        super().remove_label(label_id, label_tag)

    def modality_of(self, image_id: str) -> str:
        """Return DICOM's term for the modality of a series, empty where it is not known."""
        series = self._search(SeriesInstanceUID=image_id).get(image_id)
        return "" if series is None else str(series.get("Modality") or "")

    def make_seg(self, image_id: str, mask: Path, label_info: object, not_trusted: str = "") -> Path:
        """Return the file of a DICOM SEG of a mask of an image, see :func:`write_seg`; the caller must remove it.

        Raises:
            InputError: there is no such image, the mask is empty, ``label_info`` is not a list of objects, or the
                slices' headers lack elements that a SEG needs.
        """
        if not self.get_image_uri(image_id):
            raise InputError(f"{image_id!r}: there is no such series here to which a DICOM SEG could refer")
        series = self._cached_series(image_id)
        # a SEG is placed by the slices: a mask on another grid, as of a cache of 0.4.0, would lie elsewhere
        check_same_grid(Path(f"series {image_id}"), read_series(series), mask, read_volume(mask))
        return write_seg(mask, series, label_info, self._models, not_trusted)

    def _store_label(self, image_id: str, path: Path, tag: str, info: dict[str, Any]) -> None:
        if tag == DefaultLabelTag.FINAL:
            seg = self.make_seg(image_id, path, info.get("label_info"))
            try:
                dataset = pydicom.dcmread(seg)
                with self._server():
                    response = self._client.store_instances([dataset])
            finally:
                seg.unlink()
            if response.get("FailedSOPSequence"):
                raise InputError(f"{self.name()}: the server did not accept the DICOM SEG, see its log")
            info |= {name: str(dataset[name].value) for name in ("SeriesInstanceUID", "SOPInstanceUID")}
            image_info = self.get_image_info(image_id)
            info |= {name: image_info.get(name) for name in ("Modality", "PatientID", "StudyInstanceUID")}
        super()._store_label(image_id, path, tag, info)

    def _fetch_label(self, image_id: str) -> None:
        """Update the final label in the cache to the newest SEG that can be read; remove it where there is none."""
        with self._fetch_lock:
            cached_uid = self.get_label_info(image_id, DefaultLabelTag.FINAL).get("SOPInstanceUID")
            # times are in seconds: of two SEGs of the same second the one in the cache is the newer
            segs = self._segmentations().get(image_id, [])
            for seg in sorted(segs, key=lambda seg: (seg.content_time, seg.instance == cached_uid), reverse=True):
                if seg.instance == cached_uid:
                    return
                if seg.instance in self._unusable_segs:
                    continue
                with self._server():
                    dataset = self._client.retrieve_instance(seg.study, seg.series, seg.instance)
                try:
                    mask, names = read_seg(dataset, Path(LocalDatastore.get_image_uri(self, image_id)), self._models)
                except InputError as error:
                    logger.warning("image %s: a label is left out: %s", image_id, error)
                    self._unusable_segs.add(seg.instance)
                    continue
                with scratch_folder() as folder:
                    volume = folder / "label.nii.gz"
                    sitk.WriteImage(mask, str(volume), True)
                    entries = [{"name": names[value]} for value in sorted(names)]
                    info = {"SeriesInstanceUID": seg.series, "SOPInstanceUID": seg.instance, "label_info": entries}
                    super()._store_label(image_id, volume, DefaultLabelTag.FINAL.value, info)
                return
            self._drop_label(image_id)

    def _cached_series(self, image_id: str) -> Series:
        """Return the series that the slices in the cache form."""
        folder = Path(self._datastore.image_path()) / image_id
        try:
            series = choose_series(folder, image_id)
        except InputError as error:  # such as slices that 0.4.0 stored without the header of a DICOM file
            raise InputError(f"{error}; remove {folder}, and its slices are fetched again") from error
        for warning in series.warnings:
            logger.warning("series %s: %s", image_id, warning.text)
        return series

    def _drop_label(self, image_id: str) -> None:
        path = LocalDatastore.get_label_uri(self, image_id, DefaultLabelTag.FINAL)
        if path:
            Path(path).unlink(missing_ok=True)
            self.refresh()

    def _forget(self, image_id: str) -> None:
        """Remove an image and its labels from the cache."""
        shutil.rmtree(Path(self._datastore.image_path()) / image_id)
        for tag in self.get_labels_by_image_id(image_id):
            Path(LocalDatastore.get_label_uri(self, image_id, tag)).unlink(missing_ok=True)
        Path(self._datastore.image_path(), f"{image_id}.nii.gz").unlink(missing_ok=True)
        self.refresh()

    def _download(self, study: str, series: str, folder: Path) -> None:
        with self._server():
            if self._fetch_by_frame:
                dicom_web_download_series(study, series, str(folder), self._client, True)
                for file in folder.iterdir():  # MONAI Label writes datasets without the header of a DICOM file
                    slice_ = pydicom.dcmread(file, force=True)
                    slice_.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
                    slice_.save_as(file, write_like_original=False)
                return
            for index, instance in enumerate(self._client.retrieve_series(study, series)):
                instance.save_as(folder / f"{index:05}.dcm")  # not named by its UID, which may hold any characters

    def _search(self, **header: str) -> dict[str, Dataset]:
        """Return the image series that match the filters and ``header``, by their SeriesInstanceUIDs."""
        series_by_uid = {}
        for values in self._filters:
            with self._server():
                for answer in self._client.search_for_series(search_filters={**values, **header}):
                    series = Dataset.from_json(answer)
                    if series.get("Modality") not in NOT_IMAGES:
                        series_by_uid[str(series.SeriesInstanceUID)] = series
        return series_by_uid

    def _segmentations(self) -> dict[str, list[_Segmentation]]:
        """Return the SEGs by the SeriesInstanceUIDs of the series that they segment."""
        with self._server():
            answers = self._client.search_for_series(search_filters={"Modality": "SEG"})
            seg_series = list(map(Dataset.from_json, answers))
        segmentations: dict[str, list[_Segmentation]] = {}
        for series in seg_series:
            key = (str(series.SeriesInstanceUID), series.get("NumberOfSeriesRelatedInstances"))
            try:
                if key not in self._seg_series:
                    self._seg_series[key] = self._read_seg_series(str(series.StudyInstanceUID), key[0])
            except InputError as error:
                logger.warning("DICOM SEG %s is left out: %s", key[0], error)
                continue
            for seg in self._seg_series[key]:
                segmentations.setdefault(seg.image, []).append(seg)
        return segmentations

    def _read_seg_series(self, study: str, series: str) -> list[_Segmentation]:
        segs = []
        with self._server():
            for answer in self._client.retrieve_series_metadata(study, series):
                metadata = Dataset.from_json({tag: answer[tag] for tag in SEG_TAGS if tag in answer})
                image = next((item.get("SeriesInstanceUID") for item in metadata.get(REFERENCES) or []), None)
                content_time = f"{metadata.get('ContentDate', '')}{metadata.get('ContentTime', '')}"
                if image:
                    segs.append(_Segmentation(str(image), study, series, str(metadata.SOPInstanceUID), content_time))
                else:
                    logger.warning("DICOM SEG %s is left out: it does not say which series it segments", series)
        return segs

    @contextmanager
    def _server(self) -> Iterator[None]:
        """Turn the client's exceptions into an :class:`InputError` that names the server."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # a server that is not a DICOMweb server may give any answer
            cause = getattr(error.args[0], "reason", error) if error.args else error
            raise InputError(f"{self.name()}: no usable answer from the DICOMweb server ({cause})") from error
