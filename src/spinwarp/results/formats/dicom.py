"""Images as DICOM: a folder with one file a slice; standard deviations are a second series. Needs pydicom."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import DSfloat

from spinwarp.errors import InputError
from spinwarp.files import whole_folder
from spinwarp.geometry import Geometry
from spinwarp.results.formats.volume import Record, Series, Volume, in_order, n_at_a_place, spacing

_OURS = "SPINWARP"  # creator of the private element that holds the record
_GROUP = 0x2135  # any odd number from 0x0009 on
_LARGEST = 2**16 - 1
_WINDOW = 99.8  # per cent of the pixels that are not above white


def path_of(folder: Path, name: str) -> Path:
    """Return the folder of the slices."""
    return folder / f"{name}_dicom"


def write(path: Path, volume: Volume) -> None:
    """Write the slices as MR images of 16 bits, in the order of their positions.

    ImageOrientationPatient is the direction in which the column index grows, then that in which the row index grows;
    ImagePositionPatient is the centre of the first voxel (DICOM PS3.3, C.7.6.2.1.1). One rescale slope serves a whole
    series. Slices whose place is unknown have neither. All unique identifiers are new, except that of the study if the
    patient has one.
    """
    places = volume.located("DICOM", "no voxel size")
    order = in_order(places) if places else list(range(len(volume.images)))
    places = [places[i] for i in order] if places else []
    study, frame, now = volume.patient.study or generate_uid(), generate_uid(), datetime.now()
    try:
        gap = spacing(places[:: n_at_a_place(places)]) if places else None
    except InputError:  # no volume; every slice has its own position all the same
        gap = None
    with whole_folder(path) as folder:
        for number, series in enumerate(volume.series(), start=1):
            largest = float(series.images.max()) or 1.0
            slope = _number(largest / _LARGEST)
            white = float(np.percentile(series.images, _WINDOW)) or largest
            identifier = generate_uid()
            for i, index in enumerate(order):
                file = _described(volume, series, number)
                file.StudyInstanceUID, file.SeriesInstanceUID = study, identifier
                file.InstanceNumber = i + 1
                file.ContentDate, file.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
                _set_place(file, places[i] if places else None, volume)
                if places:
                    file.FrameOfReferenceUID, file.PositionReferenceIndicator = frame, ""
                if gap is not None:
                    file.SpacingBetweenSlices = _number(gap)
                stored = np.rint(series.images[index] / np.float64(slope)).clip(0, _LARGEST)
                _set_pixels(file, stored.astype("<u2"))
                file.RescaleSlope, file.RescaleIntercept, file.RescaleType = slope, 0, "US"  # of no unit
                file.WindowCenter, file.WindowWidth = _number(white / 2), _number(white)
                file.save_as(folder / f"image{series.suffix}_{i + 1:04d}.dcm", enforce_file_format=True)


def read_record(path: Path) -> Record | None:
    """Return what made the images; None if they are not from here."""
    try:
        file = pydicom.dcmread(next(iter(sorted(path.glob("image_*.dcm")))), stop_before_pixels=True)
        return Record.from_text(str(file.private_block(_GROUP, _OURS)[1].value))
    except Exception:  # libraries raise anything on damaged files
        return None


def _described(volume: Volume, series: Series, number: int) -> FileDataset:
    """Return a file with all but identifiers, place and pixels."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, MRImageStorage
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.SpecificCharacterSet = "ISO_IR 192"
    file.SOPClassUID = MRImageStorage
    file.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
    file.ImageType = ["DERIVED", "SECONDARY", "OTHER"] if series.suffix else ["ORIGINAL", "PRIMARY", "M"]
    file.Modality, file.Manufacturer = "MR", "spinwarp"
    patient = volume.patient
    file.PatientName, file.PatientID = patient.name or "", patient.id or ""
    file.PatientBirthDate, file.PatientSex = patient.birth_date or "", patient.sex or ""
    file.SeriesNumber, file.SeriesDescription = number, series.title[:64]
    # required, and empty where they are not known
    for name in ("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID", "PatientPosition"):
        setattr(file, name, "")
    for name in ("ScanOptions", "MRAcquisitionType", "EchoTime", "RepetitionTime", "EchoTrainLength"):
        setattr(file, name, None)
    file.ScanningSequence, file.SequenceVariant = "RM", "NONE"  # research mode
    file.private_block(_GROUP, _OURS, create=True).add_new(1, "UT", volume.record.to_text())
    return file


def _set_place(file: FileDataset, place: Geometry | None, volume: Volume) -> None:
    size = place.voxel_size if place else volume.voxel_size
    if size is not None:
        file.PixelSpacing = [_number(size[0]), _number(size[1])]  # between rows, between columns
        file.SliceThickness = _number((volume.voxel_size or size)[2])
    if place is not None:
        h, w = volume.images.shape[-2:]
        file.ImageOrientationPatient = [_number(x) for x in (*place.phase, *place.readout)]
        file.ImagePositionPatient = [_number(x) for x in place.affine((h, w))[:3, 3]]


def _set_pixels(file: FileDataset, pixels: np.ndarray) -> None:
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 16, 15
    file.PixelData = pixels.tobytes()


def _number(x: float) -> DSfloat:
    """Return a number as DICOM writes it, in at most 16 characters."""
    return DSfloat(float(x), auto_format=True)
