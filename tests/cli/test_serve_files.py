"""What is streamed and what is read from a file of the same readouts are the same images, bit for bit."""

import random
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
import pydicom
import pytest
from live_server import drawn, lines, serving
from mrd_client import CLOSE, NOISE, Client, readout, text, xml

from spinwarp.cli.reconstruct import main
from spinwarp.recon import CGSense


def write(path: Path, header: str, messages: list[bytes]) -> None:
    """Write the readouts of messages to a file, by the reference library."""
    with ismrmrd.Dataset(str(path), "dataset", True) as file:
        file.write_xml_header(header.encode())
        for message in messages:
            head = ismrmrd.AcquisitionHeader.from_buffer_copy(message[2:342])
            shape = head.active_channels, head.number_of_samples
            file.append_acquisition(ismrmrd.Acquisition(head, np.frombuffer(message[342:], "<c8").reshape(shape)))


@pytest.mark.parametrize("several", ["averages", "interleaved slices"])
def test_a_stream_and_a_file_give_the_same_images(tmp_path: Path, run: Any, several: str) -> None:
    """With a noise scan, readout oversampling, an oblique place, and the lines in any order."""
    h, w, coils = 32, 20, 3
    kspace = drawn(2, coils, h, w)
    noise = drawn(coils, 512, seed=1) * np.array([1, 2, 3])[:, None]
    # oversampled twice along the readout; the second slice lies 5 mm below the first
    header = xml(h, w, recon=(h // 2, w), averages=2 if several == "averages" else 1)
    turned = ((0.0, 0.8, 0.6), (1.0, 0.0, 0.0), (0.0, 0.6, -0.8))
    places = [((10.0, -20.0 + 3 * i, 30.0 - 4 * i), *turned) for i in range(2)]
    if several == "averages":
        imaging = [m for i in range(2) for m in lines(kspace[i], average=i, place=places[0])]
    else:
        imaging = [m for i in range(2) for m in lines(kspace[i], i, place=places[i])]
    random.Random(0).shuffle(imaging)
    messages = [*(readout(noise[:, i::8], 0, 0, NOISE) for i in range(8)), *imaging]
    write(tmp_path / "scan.h5", header, messages)
    recon = ["recon=cg_sense", "recon.weight=0.01", "recon.iterations=5"]
    done = run(main, f"input={tmp_path / 'scan.h5'}", f"out={tmp_path / 'r'}", "format=h5,dicom", *recon)
    assert done.code == 0, done.err
    with h5py.File(tmp_path / "r" / "scan.h5") as file:
        expected = file["reconstruction"][()]
    with serving(CGSense(weight=0.01, iterations=5)) as server:
        client = Client((server.host, server.port))
        client.send(text(3, header), *messages, CLOSE)
        images = sorted(client.finish(), key=lambda image: image.slice)
        assert client.texts == []
    assert [image.slice for image in images] == list(range(len(expected)))
    assert len(images) == (1 if several == "averages" else 2)
    for i, (image, pixels) in enumerate(zip(images, expected, strict=True)):
        np.testing.assert_array_equal(image.pixels, pixels)  # bit for bit
        np.testing.assert_allclose(image.position, places[i][0], atol=1e-4)
        # DICOM has the corner of the same place, and its first direction is that of the columns
        file = pydicom.dcmread(tmp_path / "r" / "scan_dicom" / f"image_{i + 1:04d}.dcm")
        read, phase = (np.array(v) for v in turned[:2])
        corner = np.array(places[i][0]) - 2.0 * (h // 4) * read - 2.0 * (w // 2) * phase
        np.testing.assert_allclose(np.array(file.ImagePositionPatient, float), corner, atol=1e-4)
        np.testing.assert_allclose(np.array(file.ImageOrientationPatient, float), [*phase, *read], atol=1e-6)
