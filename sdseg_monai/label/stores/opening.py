"""The choice of the datastore for the studies: a folder of volumes, a folder of DICOM files or a DICOMweb server."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dicomweb_client.ext.gcp.session_utils import create_session_from_gcp_credentials
from dicomweb_client.session_utils import create_session, create_session_from_user_pass
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX

from sdseg_monai.errors import InputError
from sdseg_monai.io.dicom.extra import require
from sdseg_monai.io.volumes import VOLUME_SUFFIXES
from sdseg_monai.label.models import ServedModel
from sdseg_monai.label.stores.dicom import DicomDatastore
from sdseg_monai.label.stores.dicom_folder import DicomFolder
from sdseg_monai.label.stores.volumes import VolumeDatastore

logger = logging.getLogger(__name__)

CONNECT_SECONDS, READ_SECONDS = 10, 120  # to wait for an answer
AS_STORED = (("application/dicom", "*"),)  # media type and transfer syntax


def open_datastore(studies: str, models: Iterable[ServedModel], cache_dir: Path) -> VolumeDatastore:
    """Open the studies.

    A folder with volumes (NIfTI, NRRD, MHA) directly in it is a folder of volumes, as is an empty one; labels are
    written into its ``labels/final``. A folder without volumes but with DICOM files anywhere below it is a folder of
    DICOM series; labels are written into its ``labels/final`` as DICOM SEG, and everything else is kept in
    ``cache_dir``. MONAI Label's settings ``MONAI_LABEL_DICOMWEB_*`` and ``MONAI_LABEL_DATASTORE_AUTO_RELOAD`` are used.

    Args:
        studies: folder, or URL of a DICOMweb server.
        models: the served models; only DICOM series of their modalities are listed, or all if a model names none.
        cache_dir: for volumes and masks that are made from DICOM.

    Raises:
        InputError: there is no such folder, it cannot be used, the server does not answer, or highdicom is missing.
    """
    models = list(models)
    cache_dir = Path(settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip() or cache_dir)
    if studies.startswith(("http://", "https://")):
        return _open_dicom(_client(studies.strip().rstrip("/")), models, cache_dir)
    folder = Path(studies)
    if not folder.is_dir():
        raise InputError(f"no folder at {folder.absolute()}, expected one with volumes or DICOM files, or a URL")
    dicom_folder = DicomFolder(folder, ignored_folder=cache_dir)
    if dicom_folder.search_for_series():
        if not any(path.name.lower().endswith(VOLUME_SUFFIXES) for path in folder.glob("[!.]*")):
            return _open_dicom(dicom_folder, models, cache_dir)
        logger.warning("%s: holds volumes and DICOM files; the volumes are served", folder)
    try:
        return VolumeDatastore(
            str(folder),
            extensions=[f"*{suffix}" for suffix in VOLUME_SUFFIXES],
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: cannot be used as a datastore ({error})") from error


def _open_dicom(client: Any, models: list[ServedModel], cache_dir: Path) -> DicomDatastore:
    require("highdicom")  # raises now, not only when the first label is saved
    if not settings.MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI:
        raise InputError("MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI=false: DICOM is converted to NIfTI here, leave it true")
    filters = _filters(models)
    segments = [model.bundle.segments for model in models]
    try:
        store = DicomDatastore(client, filters, segments, cache_dir, settings.MONAI_LABEL_DICOMWEB_FETCH_BY_FRAME)
    except (OSError, ValueError) as error:
        raise InputError(f"{cache_dir}: cannot be used as a cache ({error})") from error
    if not store.list_images():  # raises where the server does not answer
        logger.warning("%s: no series of images there that matches %s", store.name(), filters)
    return store


def _filters(models: Iterable[ServedModel]) -> list[Mapping[str, Any]]:
    """Return filters for series: that of the setting, else the models' modalities, else one for all series.

    MONAI Label's default, CT, counts as no setting: it is in the environment of each process that a server starts.
    """
    name = "MONAI_LABEL_DICOMWEB_SEARCH_FILTER"
    search_filter = getattr(settings, name)
    if search_filter != type(settings).model_fields[name].default:
        return [search_filter]
    modalities = {model.bundle.modality for model in models}
    return [{}] if "" in modalities else [{"Modality": modality} for modality in sorted(modalities)]


class _Client(DICOMwebClientX):
    """A client that fetches files in their stored transfer syntax: a server may be unable to decode compressed ones."""

    def retrieve_series(self, study_instance_uid: str, series_instance_uid: str) -> Any:
        return super().retrieve_series(study_instance_uid, series_instance_uid, AS_STORED)

    def retrieve_instance(self, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str) -> Any:
        return super().retrieve_instance(study_instance_uid, series_instance_uid, sop_instance_uid, AS_STORED)


def _client(url: str) -> _Client:
    """Return the client that MONAI Label would make, but with a limit of the time that it waits."""
    user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    if "googleapis.com" in url:
        session = create_session_from_gcp_credentials()
    else:
        session = create_session_from_user_pass(user, password) if user and password else create_session()
    session.request = partial(session.request, timeout=(CONNECT_SECONDS, READ_SECONDS))
    client = _Client(
        url=url,
        session=session,
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
    )
    client.set_http_retry_params(retry=False)  # it would try again for half a minute
    return client
