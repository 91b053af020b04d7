"""A plug-in of pydicom for 12-bit JPEG (Process 4), which GDCM decodes and pydicom's own refuses.

The layout of this module (``is_available``, ``DECODER_DEPENDENCIES``) is what pydicom asks for.
"""

from __future__ import annotations

import functools

import gdcm
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder
from pydicom.uid import JPEGExtended12Bit

LABEL = "gdcm, 12 bit"
DECODER_DEPENDENCIES = {JPEGExtended12Bit: ("python-gdcm",)}


def plugin_for(syntax: str, bits: int) -> str:
    """Return which of pydicom's plug-ins is to decode; "" lets pydicom try one after the other."""
    if syntax not in DECODER_DEPENDENCIES or bits <= 8:
        return ""
    _install()
    return LABEL


@functools.cache
def _install() -> None:
    """Make the plug-in known to pydicom; once a process."""
    get_decoder(JPEGExtended12Bit).add_plugin(LABEL, (__name__, "decode_frame"))


def is_available(uid: str) -> bool:
    """Return whether a transfer syntax is decoded here."""
    return uid in DECODER_DEPENDENCIES


def decode_frame(encoded: bytes, runner: DecodeRunner) -> bytes:
    """Decode one frame of 9 to 12 bits to 16-bit values."""
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(encoded)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((runner.columns, runner.rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(runner.photometric_interpretation)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    syntax = gdcm.TransferSyntax.GetTSType(str.__str__(runner.transfer_syntax))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    bits = runner.bits_stored
    image.SetPixelFormat(
        gdcm.PixelFormat(
            runner.samples_per_pixel,
            runner.bits_allocated,
            bits,
            bits - 1,
            runner.pixel_representation,
        )
    )
    decoded: str = image.GetBuffer()
    return decoded.encode("utf-8", "surrogateescape")
